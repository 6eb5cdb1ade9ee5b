"""Fine-tuning only and the nearest class mean, on sessions of digits."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from compressbench import storage
from compressbench.method.tasks import Beside
from compressbench.sessions import features
from compressbench.training.checkpoint import same_bits
from methods.baselines.nearest_class_mean.method import NearestClassMean, class_means
from methods.baselines.session_fine_tuning.method import SessionFineTuning
from methods.lec_net.method import LECNet
from tests.contexts.sessions import full_size_session_context, session_context


def test_one_image_is_its_own_mean_and_scale_does_not_matter() -> None:
    x = torch.randn(4, 5)
    labels = torch.arange(4)
    torch.testing.assert_close(class_means(x, labels), F.normalize(x, dim=1))
    scale = torch.rand(4, 1) + 0.1
    pairs = torch.tensor([0, 0, 1, 1])
    torch.testing.assert_close(class_means(scale * x, pairs), class_means(x, pairs))
    mean = F.normalize(F.normalize(x[:2], dim=1).mean(0), dim=0)
    torch.testing.assert_close(class_means(x, pairs)[0], mean)


def test_nearest_class_mean_predicts_the_largest_cosine_and_trains_nothing(data_root: Path, tmp_path: Path) -> None:
    ctx = session_context(data_root, tmp_path)
    method = NearestClassMean(NearestClassMean.Config())
    network = method.compress(ctx)
    base, data = ctx.dense(), ctx.data
    assert same_bits(network.body.state_dict(), base.body.state_dict())
    seen = [data.train, data.shots(1, 0), data.shots(2, 0)]
    means = torch.cat([class_means(features(base, part.images), part.labels) for part in seen])
    x = features(base, data.test.images)
    expected = F.cosine_similarity(x[:, None], means[None], dim=2)
    torch.testing.assert_close(network(data.test.images), expected, rtol=1e-4, atol=1e-5)
    storage.save_model(network, tmp_path / "stored")
    assert torch.equal(storage.load_model(tmp_path / "stored")(data.test.images), network(data.test.images))


def test_more_classes_never_help_the_old_ones_of_the_nearest_class_mean(data_root: Path, tmp_path: Path) -> None:
    ctx = session_context(data_root, tmp_path)
    network = NearestClassMean(NearestClassMean.Config()).compress(ctx)
    rows = ctx.task.evaluate(network, ctx.data, Beside(ctx.companions, tmp_path))["sessions"]
    for draw in range(ctx.data.draws):
        base = [row["by_session"][0] for row in rows if row["draw"] == draw]
        assert base == sorted(base, reverse=True)


def test_fine_tuning_moves_all_parameters_but_no_statistics(data_root: Path, tmp_path: Path) -> None:
    ctx = session_context(data_root, tmp_path)
    network = SessionFineTuning(SessionFineTuning.Config(steps=2, lr=0.01)).compress(ctx)
    before, after = ctx.dense().body.state_dict(), network.body.state_dict()
    for name, value in after.items():
        assert torch.equal(value, before[name]) == ("running" in name or "num_batches" in name), name
    assert network.spec.arguments["sessions"] == [6, 2, 2] and network.spec.arguments["expansions"] == [0, 0]
    predicted = network(ctx.data.test.images).argmax(1)
    assert predicted.tolist() == ctx.companions["predictions/0/2"].tolist()


def test_fine_tuning_forgets(data_root: Path, tmp_path: Path) -> None:
    ctx = session_context(data_root, tmp_path)
    network = SessionFineTuning(SessionFineTuning.Config(steps=200, lr=0.01)).compress(ctx)
    last = ctx.companions["predictions/0/2"]
    new = ctx.data.test.labels >= 8
    assert (last[~new] >= 8).float().mean() > 0.5 and network(ctx.data.test.images).shape[1] == 10


def test_fine_tuning_of_the_head_is_lec_net_without_its_parts(data_root: Path, tmp_path: Path) -> None:
    ctx, other = (session_context(data_root, tmp_path) for _ in range(2))
    network = SessionFineTuning(SessionFineTuning.Config(trained="head", dampening=0.5)).compress(ctx)
    assert same_bits(network.body.state_dict(), ctx.dense().body.state_dict())
    ablation = LECNet(LECNet.Config(expansion=False, distillation_weight=0)).compress(other)
    torch.testing.assert_close(network.state_dict(), ablation.state_dict(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", [NearestClassMean, SessionFineTuning])
def test_at_full_size(method: type, tmp_path: Path) -> None:
    name = {"NearestClassMean": "nearest_class_mean", "SessionFineTuning": "session_fine_tuning"}[method.__name__]
    ctx = full_size_session_context(tmp_path, "cifar100_sessions", name)
    config = {"steps": 1} if method is SessionFineTuning else {}
    network = method(method.Config(**config)).compress(ctx)
    assert network(ctx.data.test.images).shape == (2, 100)
