"""LEC-Net: losses and gates in float64, what a session changes, the sessions as a whole, and the published counts."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from compressbench import storage
from compressbench.data import Split
from compressbench.method.tasks import Beside
from compressbench.models.growing import GrowingClassifier, GrowingHead
from compressbench.sessions import features
from compressbench.training.checkpoint import same_bits
from methods.lec_net import counts
from methods.lec_net.losses import distillation, gate_penalty, sharpness
from methods.lec_net.method import LECNet, SessionLoss
from tests.conftest import ROOT
from tests.contexts.sessions import full_size_session_context, session_context


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def test_sharpness() -> None:
    assert {e: sharpness(e) for e in (0, 20, 21, 22, 50, 100, 1000)} == {
        0: 1, 20: 1, 21: 2, 22: 3, 50: 31, 100: 81, 1000: 981,
    }  # fmt: skip


def test_gates_move_away_from_one_half_as_the_epoch_grows() -> None:
    means = torch.tensor([-1.0, -0.1, 0.0, 0.1, 1.0], dtype=torch.float64)
    gates = torch.stack([torch.sigmoid(sharpness(e) * means) for e in range(0, 60, 5)])
    distance = (gates - 0.5) * means.sign()
    assert (distance.diff(dim=0) >= 0).all() and (gates[:, 2] == 0.5).all()


def test_penalty_is_a_tenth_of_the_mean_gate_above_r() -> None:
    gate = torch.full((8,), 0.6, dtype=torch.float64, requires_grad=True)
    r = torch.zeros((), dtype=torch.float64, requires_grad=True)
    penalty = gate_penalty(gate, r, 0.1)
    penalty.backward()
    assert penalty.item() == pytest.approx(0.06, abs=1e-15)
    torch.testing.assert_close(gate.grad, torch.full_like(gate, 0.1 / 8))
    assert r.grad.item() == pytest.approx(-0.1)
    gate.grad = None
    above = gate_penalty(gate, 0.9, 0.1)
    above.backward()
    assert above.item() == 0 and not gate.grad.any()


def test_distillation_of_equal_logits_is_their_entropy_and_new_classes_do_not_count() -> None:
    old = random(3, 4)
    p = F.softmax(old / 2, 1)
    entropy = -(p * p.log()).sum(1).mean()
    new = random(3, 2).requires_grad_()
    loss = distillation(torch.cat([old, new], 1), old, 2)
    torch.testing.assert_close(loss, entropy)
    loss.backward()
    assert not new.grad.any()


def head(width: int = 6) -> GrowingHead:
    torch.manual_seed(0)
    made = GrowingHead(8, width, (4, 2), (width,), 0.6).double()
    made.last.gate.uniform_()
    made.grow(3, width).double()
    return made


def session_loss(**config: object) -> tuple[SessionLoss, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss of session 2, features, labels of its classes, old logits."""
    made = head()
    x = random(9, 8)
    return SessionLoss(made, LECNet.Config(**config)).double(), x, torch.arange(9) % 3 + 6, made(x)[:, :6].detach()


def test_the_loss_is_the_sum_of_its_terms() -> None:
    loss, x, labels, old = session_loss()
    value = loss(x, labels, old)
    logits, gate = loss.head.self_activated(x, 1.0)
    parts = F.cross_entropy(logits, labels), distillation(logits, old, 2.0), 0.1 * gate.mean()
    torch.testing.assert_close(value, sum(parts), rtol=1e-12, atol=0)


def test_distillation_does_not_move_what_is_new() -> None:
    """ "part" makes distillation a no-op: old logits do not depend on U_s and V_s."""
    loss, x, _, old = session_loss()
    new = list(loss.head.last.parameters())
    kd = distillation(loss.head.self_activated(x, 1.0).logits, old + 1, 2.0)
    gradients = torch.autograd.grad(kd, [*new, loss.head.nodes.weight], allow_unused=True)
    assert all(g is None or not g.any() for g in gradients[:2]) and gradients[2].any()


def test_r_stays_where_it_is_unless_told_otherwise() -> None:
    for trainable, rises in ((False, 0.0), (True, 0.1)):
        loss, x, labels, old = session_loss(trainable_r=trainable)
        parameters = LECNet(loss.config).trained(loss)
        assert any(p is loss.allowed for p in parameters) == trainable
        loss(x, labels, old).backward()
        assert (0.0 if loss.allowed.grad is None else -loss.allowed.grad.item()) == pytest.approx(rises)


def learned(ctx, base: GrowingClassifier, session: int, start: GrowingHead, **config: object) -> GrowingHead:
    torch.manual_seed(session)
    return LECNet(LECNet.Config(**config)).learn(ctx, base, start, ctx.data.shots(session, 0), session, 0)


@pytest.mark.parametrize("trained", ["full", "part"])
def test_old_logits_are_the_same_bits_after_a_session_that_trains_what_is_new(
    trained: str, data_root: Path, tmp_path: Path
) -> None:
    ctx = session_context(data_root, tmp_path)
    base = ctx.dense()
    x = features(base, ctx.data.test.images[:20])
    one = learned(ctx, base, 1, base.classifier, trained=trained)
    before, gates = one(x).detach(), one.last.gate.clone()
    two = learned(ctx, base, 2, one, trained=trained)
    assert torch.equal(two.parts[1].gate, gates)
    assert torch.equal(two(x)[:, :8], before) == (trained == "part")


def test_a_session_keeps_the_gates_of_its_last_batch_and_starts_its_epochs_anew(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx, seen = session_context(data_root, tmp_path, epochs=22), []
    original = GrowingHead.self_activated

    def spy(self: GrowingHead, x: torch.Tensor, beta: float):
        output = original(self, x, beta)
        seen.append((beta, output.gate.detach().clone()))
        return output

    monkeypatch.setattr(GrowingHead, "self_activated", spy)
    base = ctx.dense()
    made = base.classifier
    for session in (1, 2):
        made = learned(ctx, base, session, made)
        assert torch.equal(made.last.gate, seen[-1][1])
    assert [beta for beta, _ in seen] == 2 * [*[1.0] * 21, 2.0]


def test_starting_from_features(data_root: Path, tmp_path: Path) -> None:
    ctx = session_context(data_root, tmp_path)
    base = ctx.dense()
    shots: Split = ctx.data.shots(1, 0)
    made, x = base.classifier, features(base, shots.images)
    LECNet(LECNet.Config(initialisation="features")).expand(made, x, shots.labels)
    assert torch.equal(made.last.expansion.weight, made.nodes.weight)
    node = made.nodes.weight @ x[shots.labels == 7].mean(0)
    torch.testing.assert_close(made.last.classifier.weight[1], node / (1e-6 + node.norm()))


@pytest.fixture(scope="module")
def runs(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple]:
    """(context, network) of both forms."""
    folder = tmp_path_factory.mktemp("lec")
    found = {}
    for form in ("compact", "dense"):
        ctx = session_context(data_root, folder, epochs=60)
        found[form] = ctx, LECNet(LECNet.Config(form=form)).compress(ctx)
    return found


def test_the_backbone_is_left_alone(runs: dict) -> None:
    for ctx, network in runs.values():
        assert same_bits(network.body.state_dict(), ctx.dense().body.state_dict())


def test_both_forms_are_the_same_network(runs: dict) -> None:
    (ctx, compact), (_, dense) = runs["compact"], runs["dense"]
    images = ctx.data.test.images
    torch.testing.assert_close(compact(images), dense(images), rtol=0, atol=1e-2)
    rows = [session.rows for session in compact.classifier.parts][1:]
    gates = [session.gate for session in dense.classifier.parts if session.rows]
    assert rows == [int((gate >= 0.01).sum()) for gate in gates] and sum(rows) < 20
    assert {"mean_gate", "decided_gates", "kept_rows"} == set(ctx.records)


def test_what_is_kept_is_what_the_stored_network_predicts(runs: dict, tmp_path: Path) -> None:
    for form, (ctx, network) in runs.items():
        storage.save_model(network, tmp_path / form)
        logits = storage.load_model(tmp_path / form)(ctx.data.test.images)
        assert logits.argmax(1).tolist() == ctx.companions["predictions/0/2"].tolist()
        measured = ctx.task.evaluate(network, ctx.data, Beside(ctx.companions, tmp_path))
        assert len(measured["sessions"]) == 2 * 3


def test_the_same_seed_gives_the_same_bits(runs: dict, data_root: Path, tmp_path: Path) -> None:
    ctx = session_context(data_root, tmp_path, epochs=60)
    network = LECNet(LECNet.Config()).compress(ctx)
    assert same_bits(network.state_dict(), runs["compact"][1].state_dict())
    assert same_bits(ctx.companions, runs["compact"][0].companions)


def test_batches_smaller_than_a_session(data_root: Path, tmp_path: Path) -> None:
    ctx = session_context(data_root, tmp_path, epochs=2, batch_size=4)
    base = ctx.dense()
    made = learned(ctx, base, 1, base.classifier)
    assert torch.isfinite(made.last.gate).all()


def test_published_counts() -> None:
    printed = pd.read_csv(ROOT / "methods/lec_net/published.csv", dtype=str, keep_default_na=False)
    found = {(f.model, f.setting, f.metric): f.value for f in counts.recompute()}
    counted = printed[~printed.metric.str.startswith(("top1", "accuracy"))]
    assert len(counted) == len(found) == 36
    for row in counted.itertuples():
        tolerance = 0.5 * 10 ** -len(row.value.partition(".")[2]) if "." in row.value else 0
        assert found[row.model, row.setting, row.metric] == pytest.approx(float(row.value), abs=tolerance)


@pytest.mark.parametrize("dataset", ["cifar100_sessions", "cub200_sessions"])
def test_one_step_per_session_at_full_size(dataset: str, tmp_path: Path) -> None:
    ctx = full_size_session_context(tmp_path, dataset, "lec_net")
    network = LECNet(LECNet.Config(form="dense")).compress(ctx)
    classes = list(ctx.data.protocol.session_len)
    assert network.spec.arguments["sessions"] == classes
    assert network.spec.arguments["expansions"] == [512] * (len(classes) - 1)
    assert network(ctx.data.test.images).shape == (2, sum(classes))
