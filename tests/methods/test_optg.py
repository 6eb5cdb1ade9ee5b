"""OptG: the published counts and the acceptance checks of its specification."""

import csv
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from compressbench import models, storage
from compressbench.errors import UserError
from compressbench.layers.masked import masked, masked_layers
from compressbench.pruning.masks import kept_weights
from compressbench.pruning.trained_masks import SCORED, scores
from compressbench.training import fit
from compressbench.training.checkpoint import Checkpoint, same_bits
from methods.optg.method import (
    MaskOptimiser,
    OptG,
    Schedule,
    export,
    masks_from_scores,
    parameter_groups,
    rank,
)
from tests.contexts import make_context

FOLDER = Path(__file__).parents[2] / "methods" / "optg"
TABLE = Schedule(epochs=100, sparsity=0.95, lr0=0.1, warmup=5, beta=1)
MINI = {
    "in_channels": 1,
    "blocks": (1, 1, 1),
    "widths": (16, 32, 64),
    "stem_stride": 2,
    "shortcut": "pad",
    "classifier": "conv",
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return models.build("resnet_cifar", **MINI | {"widths": (4, 8, 8)})


def randomise(model: nn.Module) -> None:
    """Distinct random scores."""
    generator = torch.Generator().manual_seed(1)
    for layer in masked_layers(model).values():
        layer.score.data = torch.randn(layer.weight.shape, generator=generator)  # type: ignore[union-attr]


def data(count: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, 1, 12, 12, generator=generator), torch.randint(10, (count,), generator=generator)


def cross_entropy(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


# ---- backward


def test_removed_weights_still_receive_score_gradient() -> None:
    model = masked(network(), forms=SCORED)
    randomise(model)
    rank(model, 0.5)
    cross_entropy(model, data()).backward()
    for layer in masked_layers(model).values():
        assert layer.score.grad[~layer.mask].abs().sum() > 0  # type: ignore[union-attr,index]
        assert (layer.weight.grad[~layer.mask] == 0).all()  # type: ignore[index]


def test_score_gradients_of_kept_weights_cancel_in_every_normalised_filter() -> None:
    torch.manual_seed(0)
    model = masked(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()), forms=SCORED)
    randomise(model)
    rank(model, 0.5)
    (model(torch.randn(16, 3, 9, 9)) * torch.randn(16, 8, 7, 7)).sum().backward()
    layer = masked_layers(model)["0"]
    gradient: torch.Tensor = layer.score.grad  # type: ignore[union-attr,assignment]
    sums = [
        (gradient * m).flatten(1).sum(1).abs() / (gradient * m).flatten(1).abs().sum(1)
        for m in (layer.mask, ~layer.mask)
    ]
    assert sums[0].max() <= 1e-3
    assert sums[1].max() > 1e-2


# ---- optimiser


def optimizer_of(model: nn.Module, lr: float = 0.1, decay: float = 5e-4) -> torch.optim.SGD:
    return torch.optim.SGD(parameter_groups(model), lr=lr, momentum=0.9, weight_decay=decay)


def test_two_parameter_groups_scores_without_decay_everything_else_with() -> None:
    model = masked(network(), forms=SCORED)
    rest, only_scores = optimizer_of(model).param_groups
    assert rest["weight_decay"] == 5e-4
    assert only_scores["weight_decay"] == 0
    expected = {id(layer.score) for layer in masked_layers(model).values()}  # type: ignore[union-attr]
    assert {id(p) for p in only_scores["params"]} == expected
    everything = [id(p) for group in (rest, only_scores) for p in group["params"]]
    assert sorted(everything) == sorted(id(p) for p in model.parameters())


def test_first_step_moves_scores_by_the_gradient_times_their_rate() -> None:
    model = masked(network(), forms=SCORED)
    optimizer = optimizer_of(model)
    optimizer.param_groups[1]["lr"] = 0.025
    cross_entropy(model, data()).backward()
    expected = {name: -0.025 * layer.score.grad for name, layer in masked_layers(model).items()}  # type: ignore[union-attr,operator]
    products = {name: layer.weight.detach() * layer.weight.grad for name, layer in masked_layers(model).items()}  # type: ignore[operator]
    optimizer.step()
    for name, score in scores(model).items():
        assert torch.equal(score, expected[name])
        assert torch.allclose(score, -0.025 * products[name])  # all masks are 1: the gradient of W is G


def test_removed_weights_decay_and_scores_do_not() -> None:
    model = masked(network(), forms=SCORED)
    randomise(model)
    rank(model, 0.5)
    before = {name: (m.weight.detach().clone(), m.score.clone()) for name, m in masked_layers(model).items()}
    optimizer = optimizer_of(model, lr=0.1, decay=0.01)
    cross_entropy(model, data()).backward()
    for layer in masked_layers(model).values():
        layer.score.grad.zero_()  # type: ignore[union-attr]
    optimizer.step()
    for name, layer in masked_layers(model).items():
        weight, score = before[name]
        assert torch.allclose(layer.weight[~layer.mask], weight[~layer.mask] * (1 - 0.1 * 0.01), rtol=1e-6)
        assert torch.equal(layer.score, score)  # type: ignore[arg-type]


# ---- masks


def test_global_ranking_is_exact_and_ordered_across_layers() -> None:
    model = masked(network(), forms=SCORED)
    randomise(model)
    values = scores(model)
    total = sum(s.numel() for s in values.values())
    for sparsity in (0.0, 0.3, 0.95, 0.98):
        keep = int(total * (1 - sparsity))
        masks = masks_from_scores(values, keep)
        assert sum(int(m.sum()) for m in masks.values()) == keep
        if sparsity:
            kept = torch.cat([values[n][masks[n]] for n in values])
            assert kept.min() >= torch.cat([values[n][~masks[n]] for n in values]).max()


def test_equal_scores_remove_nothing_and_ties_never_keep_too_few() -> None:
    zeros = {"a": torch.zeros(10), "b": torch.zeros(5, 2)}
    assert all(m.all() for m in masks_from_scores(zeros, 1).values())
    tied = {"a": torch.tensor([0.0, 1.0, 1.0, 2.0])}
    assert masks_from_scores(tied, 2)["a"].tolist() == [False, True, True, True]
    assert int(masks_from_scores(tied, 0)["a"].sum()) == 1


# ---- schedule


@pytest.mark.parametrize(
    ("e", "lr", "score_lr", "removed"),
    [
        (0, 0.02, 3.8575e-24, 1.8e-22),
        (4, 0.1, 1.0531e-21, None),
        (5, 0.09938442, 2.8449e-21, None),
        (45, 0.05782172, 3.8699e-4, 0.00635821),
        (50, 0.05, 0.025, 0.475),
        (55, 0.04217828, 0.04189598, 0.94364179),
        (60, 0.03454915, 0.03454758, 0.94995687),
        (75, 0.01464466, 0.01464466, 0.95),
        (99, 2.4672e-5, 2.4672e-5, 0.95),
    ],
)
def test_schedule_has_the_published_values(e: int, lr: float, score_lr: float, removed: float | None) -> None:
    """To the digits that the table prints."""
    assert TABLE.lr(e) == pytest.approx(lr, rel=1e-6 if e != 99 else 1e-5)
    assert TABLE.score_lr(e) == pytest.approx(score_lr, rel=2e-5)
    if removed is not None:
        assert TABLE.sparsity_at(e) == pytest.approx(removed, rel=1e-6 if e else 2e-2)


def test_schedule_is_monotone_centred_and_below_the_weights_rate() -> None:
    removed = [TABLE.sparsity_at(e) for e in range(100)]
    assert removed == sorted(removed)
    assert TABLE.sparsity_at(50) == 0.95 / 2
    assert removed[-1] == 0.95
    assert all(TABLE.score_lr(e) <= TABLE.lr(e) for e in range(100))


def test_sigma_around_the_centre() -> None:
    table = [0.0067, 0.0180, 0.0474, 0.1192, 0.2689, 0.5, 0.7311, 0.8808, 0.9526, 0.9820, 0.9933]
    assert [round(TABLE.sigma(50 + d), 4) for d in range(-5, 6)] == table


@pytest.mark.parametrize("epochs", [20, 40, 50])
def test_twenty_slices_or_more_reach_the_target(epochs: int) -> None:
    schedule = Schedule(epochs, 0.95, 0.1, 2)
    assert 1 - schedule.sigma(epochs - 1) < 2e-4
    assert schedule.sparsity_at(epochs - 1) == 0.95


@pytest.mark.parametrize(
    "wrong", [{"sparsity": 1.0}, {"sparsity": -0.1}, {"beta": 0}, {"slices": 1}, {"slices": 10}, {"lr": 1}]
)
def test_wrong_configurations_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        OptG.Config(**wrong)


def test_too_few_updates_are_refused_where_epochs_are_slices() -> None:
    with pytest.raises(ValueError, match="more slices"):
        Schedule(epochs=10, sparsity=0.95, lr0=0.1)


# ---- model


def test_masked_network_equals_folded_network() -> None:
    model = masked(network(), forms=SCORED)
    randomise(model)
    rank(model, 0.7)
    result = export(model, network()).eval()
    assert not any(name.endswith("score") for name in result.state_dict())
    folded = network()
    folded.load_state_dict({k: v for k, v in result.state_dict().items() if not k.endswith("mask")})
    x = data()[0]
    with torch.no_grad():
        expected = folded.eval()(x)
        assert (model.eval()(x) - expected).abs().max() <= 1e-6
        assert (result(x) - expected).abs().max() <= 1e-6


def test_training_ends_with_the_exact_number_of_weights_and_keeps_score_momentum() -> None:
    model = masked(network(), forms=SCORED)
    total = sum(s.numel() for s in scores(model).values())
    optimizer = optimizer_of(model)
    schedule = Schedule(20, 0.9, 0.1, 2)
    fit(
        model, lambda step: data(), cross_entropy, [optimizer],
        epochs=20, steps_per_epoch=2, seed=0, hooks=[MaskOptimiser(schedule)],
    )  # fmt: skip
    assert kept_weights(model) == int(total * (1 - 0.9))
    # removed weights keep their values
    assert all((layer.weight != 0).all() for layer in masked_layers(model).values())
    assert [group["lr"] for group in optimizer.param_groups] == [schedule.lr(19), schedule.score_lr(19)]
    assert kept_weights(export(model, network())) == kept_weights(model)


def test_a_run_that_is_cut_at_a_slice_resumes_with_the_same_bits(tmp_path: Path) -> None:
    def train(stop: int | None, checkpoint: Checkpoint | None) -> dict[str, torch.Tensor]:
        model = masked(network(), forms=SCORED)
        fit(
            model, lambda step: data(), cross_entropy, [optimizer_of(model)],
            epochs=stop or 20, steps_per_epoch=1, seed=0,
            hooks=[MaskOptimiser(Schedule(20, 0.9, 0.1, 2))], checkpoint=checkpoint,
        )  # fmt: skip
        return model.state_dict()

    train(12, Checkpoint(tmp_path))
    assert same_bits(train(None, Checkpoint(tmp_path)), train(None, None))


# ---- published counts


def test_facts_are_those_of_the_published_table() -> None:
    rows = list(csv.DictReader((FOLDER / "published.csv").open(encoding="utf-8")))
    published = {(r["model"], r["setting"], r["metric"]): float(r["value"]) for r in rows}
    recomputed = {(f.model, f.setting, f.metric): f.value for f in OptG.published_counts()}
    assert len(recomputed) == 22
    assert recomputed == {key: published[key] for key in recomputed}


def test_maskable_layers_of_the_papers_networks_and_of_the_desk_network() -> None:
    counts = {
        ("resnet50", 54): {"classifier": "conv"},
        ("mobilenet_v1", 28): {"classifier": "conv"},
        ("resnet_cifar", 50): {"blocks": (8, 8, 8), "widths": (32, 64, 128), "shortcut": "pad", "classifier": "conv"},
        ("vgg", 17): {"depth": 19},
    }
    for (architecture, layers), arguments in counts.items():
        with torch.device("meta"):
            assert len(masked_layers(masked(models.build(architecture, **arguments)))) == layers
    with torch.device("meta"):
        mini = masked_layers(masked(models.build("resnet_cifar", **MINI)))
    assert len(mini) == 8
    assert sum(layer.weight.numel() for layer in mini.values()) == 74_512


def test_export_does_not_touch_the_trained_model() -> None:
    model = masked(network(), forms=SCORED)
    randomise(model)
    rank(model, 0.7)
    weights = {name: layer.weight.detach().clone() for name, layer in masked_layers(model).items()}
    export(model, network())
    assert all(torch.equal(layer.weight, weights[name]) for name, layer in masked_layers(model).items())


# ---- the whole method


def test_compress_stores_a_plain_masked_model_and_records_what_reranking_does(data_root: Path, tmp_path: Path) -> None:
    ctx = make_context(data_root, tmp_path, epochs=2)
    model = OptG(OptG.Config(sparsity=0.95, slices=18, warmup=2)).compress(ctx)
    total = sum(layer.weight.numel() for layer in masked_layers(model).values())
    assert kept_weights(model) == int(total * (1 - 0.95))
    assert {
        "validation_top1_last_masks",
        "validation_top1_reranked",
        "reranking_regrown",
        "density_classifier",
    } <= set(ctx.records)
    storage.save_model(model, tmp_path / "stored")
    assert same_bits(storage.load_model(tmp_path / "stored").state_dict(), model.state_dict())


def test_slices_that_do_not_divide_the_steps_train_the_whole_budget(data_root: Path, tmp_path: Path) -> None:
    ctx = make_context(data_root, tmp_path, epochs=2)  # 36 steps
    rows: list[dict[str, float]] = []

    class Log:
        def epoch(self, number: int, epochs: int, metrics: dict[str, float]) -> None:
            rows.append(metrics)

    ctx.logger = Log()
    OptG(OptG.Config(sparsity=0.95, slices=20, warmup=2)).compress(ctx)
    assert [row["steps"] for row in rows] == [math.ceil(36 * (i + 1) / 20) for i in range(20)]
    assert [row["sparsity"] for row in rows[-2:]] == [pytest.approx(0.95 / (1 + math.exp(-8))), 0.95]


@pytest.mark.parametrize(("config", "message"), [({}, "more slices"), ({"slices": 10_000}, "fewer slices")])
def test_a_budget_that_does_not_fit_the_slices_is_one_clear_error(
    config: dict[str, int], message: str, data_root: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        OptG(OptG.Config(**config)).compress(make_context(data_root, tmp_path, epochs=2))
