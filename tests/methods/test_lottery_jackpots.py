"""Lottery Jackpots: the published counts and the acceptance checks of its specification, and its variants and controls."""

import copy
import csv
import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from compressbench import accounting, models, storage
from compressbench.config import Pair, Recipe, discovery
from compressbench.data.classification import ClassificationData, Split
from compressbench.data.datasets import info
from compressbench.errors import UserError
from compressbench.layers.masked import masked_layers
from compressbench.method import Context, loading
from compressbench.plan import Plan
from compressbench.pruning.masks import Masks, regrown_fraction
from compressbench.pruning.trained_masks import scores
from compressbench.reporting.published import _compare
from compressbench.training import fit, schedule_factor
from compressbench.training.checkpoint import Checkpoint, same_bits
from methods.lottery_jackpots.method import LotteryJackpots, MaskSearch
from methods.lottery_jackpots.search import (
    add_scores,
    chance_overlap,
    exchange,
    export,
    global_quotas,
    inner_weights,
    magnitude_masks,
    overlap,
    restricted,
    restriction_factor,
    scattered_masks,
    uniform_quotas,
)
from tests.contexts import full_size_context, make_context

from ..conftest import ROOT

FOLDER = ROOT / "methods" / "lottery_jackpots"
DECLARED = discovery.declaration(ROOT, "lottery_jackpots")
SETTINGS = {name: own.hyperparameters for name, own in DECLARED.settings.items()}
MINI = {
    "in_channels": 1,
    "blocks": (1, 1, 1),
    "widths": (4, 8, 8),
    "stem_stride": 2,
    "shortcut": "pad",
    "classifier": "conv",
}
LOW = 0.99


def config(**values: object) -> LotteryJackpots.Config:
    return LotteryJackpots.Config.model_validate(values)


def network(architecture: str = "resnet_cifar", **arguments: object) -> nn.Module:
    torch.manual_seed(0)
    return models.build(architecture, **(arguments or MINI))  # type: ignore[no-any-return]


def magnitude(model: nn.Module, sparsity: float = 0.8) -> Masks:
    weights = inner_weights(model)
    return magnitude_masks(weights, global_quotas(weights, sparsity))


def scored(model: nn.Module | None = None, sparsity: float = 0.8, rank_by_abs: bool = False) -> nn.Module:
    """A network ready to be searched, its weights kept as they are."""
    model = model or network()
    return add_scores(model, magnitude(model, sparsity), LOW, rank_by_abs)


def data(count: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, 1, 12, 12, generator=generator), torch.randint(10, (count,), generator=generator)


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def optimizer_of(model: nn.Module, lr: float = 0.1, decay: float = 5e-4) -> torch.optim.SGD:
    return torch.optim.SGD(scores(model).values(), lr=lr, momentum=0.9, weight_decay=decay)


def zeros(model: nn.Module) -> dict[str, int]:
    return {name: int((~layer.mask).sum()) for name, layer in masked_layers(model).items()}


class Watch(MaskSearch):
    """The search, with the masks after every step and a check of what must hold then."""

    def __init__(self, masks: Masks, restriction: str = "none"):
        super().__init__(masks, restriction)  # type: ignore[arg-type]
        self.seen: list[Masks] = []

    def on_step_end(self, state) -> None:  # type: ignore[no-untyped-def]
        super().on_step_end(state)
        found = {name: layer.mask.clone() for name, layer in masked_layers(state.model).items()}
        self.seen.append(found)
        assert {name: int((~mask).sum()) for name, mask in found.items()} == self.removed | {"classifier": 0}
        for name, removed in self.removed.items():
            if self.restriction == "none" and removed:
                rank = masked_layers(state.model)[name].rank().detach()  # type: ignore[union-attr,operator]
                assert rank[found[name]].min() >= rank[~found[name]].max()


def search(model: nn.Module, watch: MaskSearch, steps: int = 3, epochs: int = 4, lr: float = 0.1) -> nn.Module:
    return fit(
        model, lambda step: data(), cross_entropy, [optimizer_of(model, lr)],
        epochs=epochs, steps_per_epoch=steps, seed=0, hooks=[watch],
    )  # fmt: skip


# ---- quotas and initial masks (check 1)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.75, 0.9, 0.95, 0.98])
def test_kept_weights_without_the_classifier_are_exactly_those_of_the_pool(sparsity: float) -> None:
    model = network()
    weights = inner_weights(model)
    masks = magnitude(model, sparsity)
    total = sum(w.numel() for w in weights.values())
    assert sum(int(m.sum()) for m in masks.values()) == math.floor(total * (1 - sparsity))
    assert "classifier" not in masks and "stem.conv" in masks
    kept = torch.cat([w.abs()[masks[name]] for name, w in weights.items()])
    removed = torch.cat([w.abs()[~masks[name]] for name, w in weights.items()])
    assert sparsity == 0 or kept.min() > removed.max()  # one threshold for all layers, so the top of every layer


def test_scores_take_exactly_two_values_and_the_classifier_keeps_every_weight() -> None:
    layers = masked_layers(scored())
    for name, layer in layers.items():
        expected = [1.0] if name == "classifier" else [pytest.approx(LOW), 1.0]
        assert layer.score.unique().tolist() == expected  # type: ignore[union-attr,operator]
        assert torch.equal(layer.score == 1, layer.mask)  # type: ignore[arg-type]
    assert layers["classifier"].mask.all()


def test_the_threshold_is_strict_so_that_ties_with_it_stay() -> None:
    weights = {"a": torch.tensor([1.0, -1.0, 1.0, 2.0]), "b": torch.tensor([0.5, 3.0])}
    assert global_quotas(weights, 0.5) == {"a": 0, "b": 1}  # floor(6 * 0.5) = 3: t = 1
    assert magnitude_masks(weights, {"a": 2, "b": 1})["a"].tolist() == [False, False, True, True]


def test_uniform_quotas_remove_the_same_share_of_every_layer() -> None:
    weights = inner_weights(network())
    assert uniform_quotas(weights, 0.9) == {name: w.numel() * 9 // 10 for name, w in weights.items()}
    masks = magnitude_masks(weights, uniform_quotas(weights, 0.75))
    assert chance_overlap(masks) == pytest.approx(0.25)


def test_random_masks_have_the_same_quotas_and_the_overlap_of_chance() -> None:
    model = network("resnet_cifar", **MINI | {"widths": (16, 32, 64)})
    weights, reference = inner_weights(model), magnitude(model, 0.9)
    quotas = {name: int((~m).sum()) for name, m in reference.items()}
    masks = scattered_masks(weights, quotas, torch.Generator().manual_seed(0))
    assert {name: int((~m).sum()) for name, m in masks.items()} == quotas
    assert overlap(masks, reference) == pytest.approx(chance_overlap(reference), abs=0.02)
    assert overlap(reference, reference) == 1


# ---- backward (checks 2, 8)


@pytest.mark.parametrize("rank_by_abs", [False, True])
def test_score_gradient_is_the_dense_gradient_times_the_weight(rank_by_abs: bool) -> None:
    torch.manual_seed(0)
    x, upstream = torch.randn(2, 3, 6, 6).double(), torch.randn(2, 4, 4, 4).double()
    conv = nn.Conv2d(3, 4, 3).double()
    weight, bias = conv.weight.detach().clone(), conv.bias.detach().clone()  # type: ignore[union-attr]
    mask = torch.rand(weight.shape) < 0.5
    layer = add_scores(nn.Sequential(conv), {"0": mask}, LOW, rank_by_abs)[0]  # type: ignore[index]
    layer.score.data = torch.randn_like(weight)
    layer(x).backward(upstream)
    effective = (weight * mask).requires_grad_()
    F.conv2d(x, effective, bias).backward(upstream)
    expected = effective.grad * weight * (layer.score.sign() if rank_by_abs else 1)  # type: ignore[operator]
    assert torch.allclose(layer.score.grad, expected, atol=1e-10, rtol=0)
    assert layer.score.grad[~mask].abs().min() > 0
    assert torch.equal(layer.effective_weight(), weight * mask)
    assert layer.weight.grad is None and layer.bias.grad is None


def test_only_scores_receive_gradients() -> None:
    model = scored().train()
    cross_entropy(model, data()).backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {f"{name}.score" for name in masked_layers(model)}
    assert {id(p) for p in scores(model).values()} == {id(p) for p in model.parameters() if p.requires_grad}


def test_score_gradients_of_kept_weights_cancel_in_every_normalised_filter() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()).double()
    model = add_scores(body, {"0": torch.rand(8, 3, 3, 3) < 0.5}, LOW)
    (model(torch.randn(16, 3, 9, 9).double()) * torch.randn(16, 8, 7, 7).double()).sum().backward()
    layer = masked_layers(model)["0"]
    gradient: Tensor = layer.score.grad  # type: ignore[union-attr,assignment]
    kept, removed = (
        (gradient * m).flatten(1).sum(1).abs() / (gradient * m).flatten(1).abs().sum(1)
        for m in (layer.mask, ~layer.mask)
    )
    assert kept.max() <= 1e-3
    assert removed.max() > 1e-2


# ---- one iteration (checks 4 to 7, 10)


def test_the_first_step_moves_scores_by_gradient_and_decay() -> None:
    model = scored().train()
    before = [s.detach().clone() for s in scores(model).values()]
    cross_entropy(model, data()).backward()
    optimizer_of(model, lr=0.1, decay=5e-4).step()
    for start, score in zip(before, scores(model).values(), strict=True):
        assert torch.allclose(score, start - 0.1 * (score.grad + 5e-4 * start), atol=1e-7)  # type: ignore[operator]


@pytest.mark.parametrize(("restriction", "rank_by_abs"), [("none", False), ("none", True), ("quartic", False)])
def test_the_number_of_zeros_of_every_layer_never_changes(restriction: str, rank_by_abs: bool) -> None:
    """`Watch` checks it after every step, and that without restriction the largest scores are kept."""
    model = network()
    masks = magnitude(model)
    watch = Watch(masks, restriction)
    search(scored(model, rank_by_abs=rank_by_abs), watch)
    assert len(watch.seen) == 12
    assert regrown_fraction(masks, {name: watch.seen[-1][name] for name in masks}) > 0.02


def test_masks_follow_the_largest_scores_of_the_layer_when_everything_is_exchanged() -> None:
    generator = torch.Generator().manual_seed(0)
    for removed in (1, 13, 59, 119):
        mask = torch.ones(5, 4, 3, 2, dtype=torch.bool)
        mask.view(-1)[torch.randperm(120, generator=generator)[:removed]] = False
        rank = torch.randn(mask.shape, generator=generator)
        found = exchange(mask, rank, removed)
        expected = torch.zeros(120, dtype=torch.bool)
        expected[rank.flatten().argsort(descending=True)[: 120 - removed]] = True
        assert torch.equal(found.flatten(), expected)


@pytest.mark.parametrize(
    ("pairs", "factor", "expected"),
    [(41, 0.25, 11), (70, 0.1, 7), (24, 0.01, 1), (2, 0.5, 1), (1, 0.1, 1), (41, 1, 41)],
)
def test_a_restriction_exchanges_the_most_convincing_pairs(pairs: int, factor: float, expected: int) -> None:
    assert restricted(pairs, factor) == expected
    mask = torch.arange(200) < 100  # 100 removed entries; the best `pairs` of them are above all kept ones
    rank = torch.where(mask, torch.linspace(1, 2, 200), torch.linspace(-2, -1, 200))
    rank[200 - pairs :] = torch.linspace(3, 4, pairs)
    found = exchange(mask, rank, 100, factor)
    assert (~mask & found).nonzero().flatten().tolist() == list(range(200 - expected, 200))
    assert (mask & ~found).nonzero().flatten().tolist() == list(range(expected))
    assert int(found.sum()) == 100 and mask[:100].all()  # the given mask is left alone


def test_exact_ties_and_fresh_scores_exchange_nothing() -> None:
    model = scored()
    for layer in masked_layers(model).values():
        removed = int((~layer.mask).sum())
        assert torch.equal(exchange(layer.mask, layer.score.detach(), removed), layer.mask)  # type: ignore[union-attr,operator]
    mask = torch.tensor([True, True, False, False])
    assert torch.equal(exchange(mask, torch.zeros(4), 2), mask)
    assert torch.equal(
        exchange(mask, torch.tensor([0.0, 1.0, 1.0, 1.0]), 2), mask
    )  # two enter, none could be told to go


@pytest.mark.parametrize("removed", [0, 4])
def test_layers_without_or_with_only_zeros_are_left_alone(removed: int) -> None:
    mask = torch.full((4,), removed == 0)
    assert torch.equal(exchange(mask, torch.randn(4), removed), mask)


# ---- schedules (check 9)


def test_learning_rate_and_restriction_have_the_published_values() -> None:
    recipe, _ = LotteryJackpots(config()).recipes(Recipe(epochs=30, lr=0.01, weight_decay=5e-4, warmup_epochs=1))
    assert recipe is not None
    factor = schedule_factor(recipe, 30, 196)
    assert recipe.lr * factor(0) == recipe.lr * factor(195) == 0.1
    assert recipe.lr * factor(15 * 196) == pytest.approx(0.05)
    assert recipe.lr * factor(7 * 196 + 5) == pytest.approx(0.05 * (1 + math.cos(math.pi * 7 / 30)))
    assert (recipe.momentum, recipe.weight_decay, recipe.nesterov) == (0.9, 5e-4, False)
    quartic = [restriction_factor("quartic", e, 5) for e in range(5)]
    assert quartic == pytest.approx([1, 0.4096, 0.1296, 0.0256, 0.0016])
    assert {restriction_factor(kind, e, 30) for kind in ("none", "released") for e in range(30)} == {1}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("batch", "images", "epochs", "decay", "expected"),
    [(256, 50_000, 30, 5e-4, 0.22), (256, 50_000, 160, 5e-4, 3.7e-4), (256, 1_281_167, 30, 1e-4, 4.3e-4)],
)
def test_decay_forgets_the_magnitudes_in_long_searches_only(
    batch: int, images: int, epochs: int, decay: float, expected: float
) -> None:
    recipe, _ = LotteryJackpots(config()).recipes(Recipe(epochs=epochs, lr=0.01, weight_decay=decay))
    steps = math.ceil(images / batch)
    factor = schedule_factor(recipe, epochs, steps)  # type: ignore[arg-type]
    total = steps * sum(0.1 * factor(e * steps) for e in range(epochs))
    assert math.exp(-total * decay / 0.1) == pytest.approx(expected, rel=0.03)


# ---- variants


def test_the_restriction_of_the_release_does_not_act() -> None:
    found = []
    for restriction in ("none", "released"):
        model = network()
        watch = Watch(magnitude(model), restriction)
        search(scored(model), watch)
        found.append(watch.seen)
    assert all(same_bits(a, b) for a, b in zip(*found, strict=True))


def test_both_releases_find_the_same_masks_while_scores_are_positive() -> None:
    found = []
    for rank_by_abs in (False, True):
        model = network()
        watch = Watch(magnitude(model))
        model = search(scored(model, rank_by_abs=rank_by_abs), watch, lr=0.01)
        assert min(s.min() for s in scores(model).values()) > 0
        found.append(watch.seen)
    assert all(same_bits(a, b) for a, b in zip(*found, strict=True))
    assert regrown_fraction(found[0][0], found[0][-1]) > 0.01


def test_ranking_by_magnitude_differs_once_scores_are_negative() -> None:
    mask, rank = torch.tensor([True, True, False]), torch.tensor([1.0, 0.5, -2.0])
    assert torch.equal(exchange(mask, rank, 1), mask)
    assert exchange(mask, rank.abs(), 1).tolist() == [True, False, True]


def test_named_settings_are_the_releases_and_the_controls() -> None:
    resolved = {name: LotteryJackpots.Config.model_validate(values) for name, values in SETTINGS.items()}
    assert resolved["released_2023_p90"].restriction == "released"
    assert (resolved["released_2021_p90"].score_low, resolved["released_2021_p90"].rank_by_abs) == (0.95, True)
    default = resolved["p90"]
    assert (default.score_low, default.rank_by_abs, default.restriction, default.start) == (
        0.99,
        False,
        "none",
        "magnitude",
    )
    assert resolved["random_start_p90"].start == "random" and resolved["random_start_p90"].search
    assert resolved["random_weights_p90"].weights == "random" and not resolved["no_search_p90"].search
    assert not resolved["random_mask_p90"].search and resolved["random_mask_p90"].start == "random"
    assert all(DECLARED.label_of(name) != name for name in SETTINGS)


# ---- the whole method (checks 3, 11, 12)


@cache
def trained(root: Path) -> dict[str, Tensor]:
    """A dense network that has learned the digits."""
    with TemporaryDirectory() as folder:
        ctx = make_context(root, Path(folder), epochs=6)
        return ctx.fit(ctx.build(), ctx.recipes.pretrain).state_dict()


def context(root: Path, folder: Path, stage: str = "compress", **recipe: object) -> Context:
    """A context whose dense network is trained."""
    ctx = make_context(root, folder, stage, **{"epochs": 3} | recipe)
    dense = ctx.build()
    dense.load_state_dict(trained(root))
    storage.save_model(dense, folder / "dense")
    return ctx


@pytest.mark.parametrize("options", [{}, {"start": "random"}, {"restriction": "quartic"}, {"rank_by_abs": True}])
def test_no_weight_bias_scale_or_shift_changes_by_one_bit(
    options: dict[str, object], data_root: Path, tmp_path: Path
) -> None:
    ctx = context(data_root, tmp_path)
    model = LotteryJackpots(config(sparsity=0.8, **options)).compress(ctx)
    before, after = ctx.dense().state_dict(), model.state_dict()
    for name, tensor in before.items():
        if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert not torch.equal(after[name], tensor), name
        else:
            mask = after.get(f"{name.removesuffix('.weight')}.mask", torch.ones_like(tensor, dtype=torch.bool))
            assert torch.equal(after[name][mask], tensor[mask]), name
            assert (after[name][~mask] == 0).all()
    assert not any(name.endswith("score") for name in after)
    storage.save_model(model, tmp_path / "stored")
    assert same_bits(storage.load_model(tmp_path / "stored").state_dict(), after)


def test_the_searched_network_itself_keeps_removed_weights_too() -> None:
    model = network()
    before = copy.deepcopy(model).state_dict()
    found = search(scored(model), MaskSearch(magnitude(network()), "none")).state_dict()
    frozen = [name for name in before if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert all(torch.equal(before[name], found[name]) for name in frozen)
    assert all(not torch.equal(before[name], found[name]) for name in set(before) - set(frozen))


def test_masked_network_equals_folded_network() -> None:
    dense = network()
    model = search(scored(copy.deepcopy(dense)), MaskSearch(magnitude(dense), "none"))
    result, folded = export(model, dense).eval(), network()
    folded.load_state_dict({name: t for name, t in result.state_dict().items() if not name.endswith("mask")})
    with torch.no_grad():
        expected = folded.eval()(data()[0])
        assert (model(data()[0]) - expected).abs().max() <= 1e-6
        assert (result(data()[0]) - expected).abs().max() <= 1e-6
    assert all(torch.equal(p, q) for p, q in zip(dense.parameters(), network().parameters(), strict=True))


def training_loss(ctx: Context, model: nn.Module) -> float:
    batches = ctx.batches(ctx.recipes.finetune)
    with torch.no_grad():
        return sum(float(cross_entropy(model.eval(), batches(step))) for step in range(10)) / 10


def test_search_lowers_the_loss_and_controls_are_ordered(data_root: Path, tmp_path: Path) -> None:
    losses, records = {}, {}
    for name in ("p90", "no_search_p90", "random_mask_p90", "random_start_p90"):
        ctx = context(data_root, tmp_path / name, epochs=8)
        model = LotteryJackpots(config(**SETTINGS[name] | {"sparsity": 0.7})).compress(ctx)
        losses[name], records[name] = training_loss(ctx, model), ctx.records
    assert losses["p90"] < losses["no_search_p90"] < losses["random_mask_p90"]
    assert losses["random_start_p90"] < losses["random_mask_p90"]
    assert records["no_search_p90"]["magnitude_overlap"] == 1
    assert records["random_start_p90"]["magnitude_overlap"] > records["random_mask_p90"]["magnitude_overlap"]
    kept = {r["kept_weights"] for r in records.values()}
    assert len(kept) == 1  # all controls have the same quotas


def test_true_sparsity_and_overlap_are_recorded(data_root: Path, tmp_path: Path) -> None:
    ctx = context(data_root, tmp_path, epochs=2)
    model = LotteryJackpots(config(sparsity=0.9)).compress(ctx)
    counts = accounting.account(model, ctx.info.image_shape)
    classifier = model.classifier.weight.numel()  # type: ignore[union-attr,operator]
    inner = counts.weights - classifier  # type: ignore[operator]
    assert counts.kept_weights == ctx.records["kept_weights"] == math.floor(inner * (1 - 0.9)) + classifier  # type: ignore[operator]
    assert ctx.records["overall_sparsity"] == 1 - counts.kept_weights / counts.weights < 0.9
    masks = {name: layer.mask for name, layer in masked_layers(model).items()}
    assert ctx.records["magnitude_overlap"] == overlap(masks, magnitude(ctx.dense(), 0.9))
    assert ctx.records["magnitude_overlap_by_chance"] == chance_overlap(masks)
    assert "density_stem.conv" in ctx.records


def test_random_weights_are_searched_with_the_quotas_of_the_trained_network(data_root: Path, tmp_path: Path) -> None:
    ctx = context(data_root, tmp_path, epochs=1)
    model = LotteryJackpots(config(sparsity=0.8, weights="random")).compress(ctx)
    fresh, quotas = inner_weights(ctx.build()), global_quotas(inner_weights(ctx.dense()), 0.8)
    for name, layer in masked_layers(model).items():
        assert torch.equal(layer.weight[layer.mask], fresh[name][layer.mask])
        assert int((~layer.mask).sum()) == quotas[name]


class Log:
    """The metrics of every epoch."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def epoch(self, number: int, epochs: int, metrics: dict[str, float]) -> None:
        self.rows.append(metrics)


def test_every_epoch_logs_what_it_exchanged_and_the_overlap_with_magnitude(data_root: Path, tmp_path: Path) -> None:
    ctx, log = context(data_root, tmp_path), Log()
    ctx.logger = log
    LotteryJackpots(config(sparsity=0.8, restriction="quartic")).compress(ctx)
    assert [row["restriction"] for row in log.rows] == pytest.approx([1, (2 / 3) ** 4, (1 / 3) ** 4])
    assert all(0 < row["regrown"] < 1 and 0 < row["magnitude_overlap"] < 1 for row in log.rows)
    assert log.rows[0]["lr"] == 0.1 and log.rows[0]["regrown"] == pytest.approx(1 - log.rows[0]["magnitude_overlap"])
    assert ctx.records["magnitude_overlap"] == log.rows[-1]["magnitude_overlap"]


def test_a_search_of_few_passes_goes_through_the_schedule_of_many_epochs(data_root: Path, tmp_path: Path) -> None:
    ctx, log = context(data_root, tmp_path, epochs=2), Log()
    ctx.logger = log
    LotteryJackpots(config(sparsity=0.8, slices=6, restriction="quartic")).compress(ctx)
    assert [row["steps"] for row in log.rows] == [6 * (i + 1) for i in range(6)]  # 36 in all: two passes
    assert [row["lr"] for row in log.rows] == pytest.approx([0.05 * (1 + math.cos(math.pi * i / 6)) for i in range(6)])
    assert [row["restriction"] for row in log.rows] == pytest.approx([(1 - i / 6) ** 4 for i in range(6)])
    assert all("validation_top1" in row for row in log.rows)


def test_slices_that_do_not_divide_the_steps_search_for_the_whole_budget(data_root: Path, tmp_path: Path) -> None:
    ctx, log = context(data_root, tmp_path, epochs=2), Log()
    ctx.logger = log
    LotteryJackpots(config(sparsity=0.8, slices=7)).compress(ctx)
    assert [row["steps"] for row in log.rows] == [math.ceil(36 * (i + 1) / 7) for i in range(7)]


# ---- weight tuning


def test_tuning_moves_kept_weights_only_and_shares_the_budget(data_root: Path, tmp_path: Path) -> None:
    ctx, log = context(data_root, tmp_path, epochs=3), Log()
    ctx.logger = log
    model = LotteryJackpots(config(sparsity=0.8, tuning_epochs=1)).compress(ctx)
    assert len(log.rows) == 3 and [row["lr"] for row in log.rows] == pytest.approx([0.1, 0.05, 0.01])
    plain = LotteryJackpots(config(sparsity=0.8)).compress(context(data_root, tmp_path / "plain", epochs=2))
    for name, layer in masked_layers(model).items():
        before = masked_layers(plain)[name]
        assert torch.equal(layer.mask, before.mask)
        assert (layer.weight[~layer.mask] == 0).all() and (layer.weight != before.weight).any()
    assert all((p != q).any() for p, q in zip(model.parameters(), plain.parameters(), strict=True))


def test_tuning_has_no_decay_and_its_own_rate() -> None:
    method = LotteryJackpots(config(tuning_epochs=10))
    searching, tuning = method.recipes(Recipe(epochs=40, lr=0.1, weight_decay=1e-4, label_smoothing=0.1))
    assert searching is not None and tuning is not None
    assert (searching.epochs, searching.lr, searching.weight_decay, searching.label_smoothing) == (30, 0.1, 1e-4, 0)
    assert (tuning.epochs, tuning.lr, tuning.weight_decay, tuning.schedule) == (10, 0.01, 0, "cosine_by_epoch")
    assert LotteryJackpots(config(search=False)).recipes(Recipe(epochs=1, lr=0.1)) == (None, None)


# ---- resume


@pytest.mark.parametrize("options", [{}, {"restriction": "quartic", "tuning_epochs": 1}])
def test_a_killed_run_resumes_with_the_same_bits(
    options: dict[str, object], data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = LotteryJackpots(config(sparsity=0.8, **options))
    whole = method.compress(context(data_root, tmp_path / "whole"))
    save, saved = Checkpoint.save, []

    def killed(self: Checkpoint, *args: object) -> None:
        save(self, *args)  # type: ignore[arg-type]
        saved.append(self.folder.name)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            method.compress(context(data_root, tmp_path / "cut"))
    assert saved == ["search", "search"]
    assert same_bits(method.compress(context(data_root, tmp_path / "cut")).state_dict(), whole.state_dict())


# ---- errors (check 13)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sparsity": 1.0},
        {"sparsity": -0.1},
        {"score_low": 1.0},
        {"score_low": 1.5},
        {"restriction": "cubic"},
        {"tuning_epochs": -1},
        {"search_lr": 0},
        {"lr": 1},
    ],
)
def test_wrong_configurations_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        config(**wrong)


@pytest.mark.parametrize("factor", [0.0, -0.5, 1.01])
def test_restriction_factors_outside_their_range_are_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        restricted(5, factor)


def test_a_missing_trained_network_is_one_clear_error(data_root: Path, tmp_path: Path) -> None:
    ctx = make_context(data_root, tmp_path)
    ctx.dense_folder = tmp_path / "nowhere"
    with pytest.raises(UserError, match="nowhere"):
        LotteryJackpots(config()).compress(ctx)


def test_a_network_whose_last_layer_is_not_the_classifier_is_refused() -> None:
    with pytest.raises(UserError, match="the last layer is 0"):
        inner_weights(nn.Sequential(nn.Conv2d(1, 1, 1)))


def test_tuning_for_the_whole_budget_leaves_no_search_and_is_refused() -> None:
    with pytest.raises(UserError, match="tuning_epochs"):
        LotteryJackpots(config(tuning_epochs=3)).recipes(Recipe(epochs=3, lr=0.1))


# ---- published counts and full size (section 7)


def test_facts_are_those_of_the_published_table() -> None:
    rows = list(csv.DictReader((FOLDER / "published.csv").open(encoding="utf-8")))
    published = {(r["model"], r["setting"], r["metric"]): r["value"] for r in rows}
    found = LotteryJackpots.published_counts()
    assert len(found) == 5 * 5 + 10 * 3
    for count in found:
        assert _compare(published[(count.model, count.setting, count.metric)], count.value)[1] == "ok", count


def test_published_settings_are_known_and_each_row_appears_once() -> None:
    rows = list(csv.DictReader((FOLDER / "published.csv").open(encoding="utf-8")))
    keys = [(r["dataset"], r["model"], r["setting"], r["metric"]) for r in rows]
    assert len(set(keys)) == len(keys)
    top1 = {r["setting"] for r in rows if r["metric"] == "top1"}
    assert top1 - set(SETTINGS) == {"p80_first", "p90_first", "tuned_p90_second"}


def test_nominal_ninety_percent_of_resnet50_is_less_over_the_whole_network() -> None:
    with torch.device("meta"):
        weights = {name: w.shape for name, w in inner_weights(models.build("resnet50")).items()}
    inner = sum(shape.numel() for shape in weights.values())
    assert len(weights) == 53 and any("shortcut" in name for name in weights)
    assert 1 - (math.floor(inner * (1 - 0.9)) + 2_048_000) / 25_502_912 == pytest.approx(0.8277, abs=5e-5)


def test_the_desk_network_has_the_weights_of_its_specification() -> None:
    with torch.device("meta"):
        mini = models.build("resnet_cifar", **MINI | {"widths": (16, 32, 64)})
    assert sum(layer.weight.numel() for _, layer in accounting.weight_layers(mini)) == 74_512
    assert mini.classifier.weight.numel() == 640


RESNET32 = {"blocks": [5, 5, 5], "widths": [32, 64, 128], "shortcut": "pad"}
CIFAR = {"epochs": 1, "steps_per_epoch": 1, "batch_size": 2, "lr": 0.1, "weight_decay": 5e-4}


def cifar_context(folder: Path, architecture: str, arguments: dict[str, object]) -> Context:
    """One step on two random images of CIFAR's size."""
    recipes = dict.fromkeys(("scratch", "pretrain", "finetune"), CIFAR)
    pair = Pair.model_validate({"architecture": architecture, "arguments": arguments} | recipes)
    split = Split(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(4))
    ctx = Context(folder, "compress", 0, pair, "cifar10", folder / "compress", torch.device("cpu"))
    ctx.__dict__["data"] = ClassificationData(info("cifar10"), split, split, split)
    ctx.dense = ctx.build  # type: ignore[method-assign]
    return ctx


def assert_one_iteration(ctx: Context, setting: dict[str, object], kept: int) -> None:
    """The counts of the published table, and masks that have moved."""
    method = LotteryJackpots(config(**setting))
    dense = ctx.build()
    model = method.compress(ctx)
    counts = accounting.account(model, ctx.info.image_shape)
    assert abs(counts.kept_weights - kept) <= 1  # equal magnitudes at the threshold stay
    assert 0 < ctx.records["magnitude_overlap"] < 1
    layers: Iterable[tuple[str, nn.Module]] = masked_layers(model).items()
    weights = inner_weights(dense)
    assert all(torch.equal(layer.weight[layer.mask], weights[name][layer.mask]) for name, layer in layers)  # type: ignore[index]


@pytest.fixture
def unsaved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoint, "save", lambda *_: None)  # seconds of writing that other tests cover


@pytest.mark.parametrize(
    ("architecture", "arguments", "kept"), [("resnet_cifar", RESNET32, 185_686), ("vgg", {"depth": 19}, 2_007_007)]
)
def test_one_iteration_at_full_size_on_cifar(
    architecture: str, arguments: dict[str, object], kept: int, tmp_path: Path, unsaved: None
) -> None:
    assert_one_iteration(cifar_context(tmp_path, architecture, arguments), SETTINGS["e30_p90"], kept)


def test_one_iteration_at_full_size_on_imagenet(tmp_path: Path, unsaved: None) -> None:
    ctx = full_size_context(tmp_path, "imagenet/resnet50", "lottery_jackpots", "p90")
    assert_one_iteration(ctx, SETTINGS["p90"], 4_393_491)


def test_paper_scale_has_the_published_recipes() -> None:
    plan = Plan(ROOT, "paper", ["lottery_jackpots"], [0])
    epochs = {run.setting: plan.pair(run).finetune.epochs for run in plan.runs}
    cifar = {"e30_p90": 30, "e30_p95": 30, "e160_p90": 160, "e160_p95": 160}
    assert epochs == cifar | {
        "p80": 30, "p90": 30, "e60_p80": 60, "e60_p90": 60, "tuned_p80": 40, "tuned_p90": 40,
    }  # fmt: skip
    for run in plan.runs:
        recipe, decay = plan.pair(run).finetune, 5e-4 if run.setting in cifar else 1e-4
        assert (recipe.batch_size, recipe.weight_decay, recipe.label_smoothing) == (256, decay, 0)
        searching, _ = LotteryJackpots(loading.resolve(ROOT, run.method, run.setting, "paper")).recipes(recipe)  # type: ignore[arg-type]
        assert searching is not None and searching.epochs == epochs[run.setting] - 10 * run.setting.startswith("tuned")
