"""CLR-RNF: the ranking, the selection, what is inherited, the published counts."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compressbench import accounting, models
from compressbench.config import Recipe
from compressbench.errors import UserError
from compressbench.plan import Plan, Run
from compressbench.pruning.filters import RATE_STEP, cost_of, couplings_like, macs
from compressbench.pruning.surgery import keep_filters
from compressbench.training import schedule_factor
from compressbench.training.checkpoint import same_bits
from methods.baselines.l1_filter.method import L1Filter
from methods.clr_rnf.counts import PUBLISHED, recompute
from methods.clr_rnf.method import CLRRNF, Ranking, restart
from methods.clr_rnf.selection import cross_layer_rates, reciprocal_nearest, relative_costs, worst_ranks
from tests.conftest import ROOT
from tests.contexts import full_size_context, make_context

CIFAR, IMAGENET = (3, 32, 32), (3, 224, 224)


def method(**options: object) -> CLRRNF:
    return CLRRNF(CLRRNF.Config(**options))


def network(architecture: str, **arguments: object) -> nn.Module:
    torch.manual_seed(0)
    return models.build(architecture, **arguments).eval()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- how many


def groups() -> dict[str, list[Tensor]]:
    return {"a": [random(16, 8, 3, 3, seed=1)], "b": [2 * random(24, 16, 3, 3, seed=2), random(24, 5, seed=3)]}


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.86, 0.999])
def test_exactly_the_kept_weights_reach_the_threshold(ratio: float) -> None:
    costs, power = {"a": 1.0, "b": 0.7}, 3.0
    rates = cross_layer_rates(groups(), costs, power, ratio)
    sizes = {name: sum(w.numel() for w in weights) for name, weights in groups().items()}
    total = sum(sizes.values())
    kept = int(total * (1 - ratio))
    assert sum(rates[name] * sizes[name] for name in sizes) == pytest.approx(total - kept, abs=1e-6)
    scaled = torch.cat([torch.cat([w.flatten().abs() for w in ws]) / costs[n] ** power for n, ws in groups().items()])
    threshold = scaled.sort(descending=True).values[kept - 1]
    assert int((scaled >= threshold).sum()) == kept


def test_without_costs_it_is_global_magnitude() -> None:
    rates = cross_layer_rates(groups(), {"a": 5.0, "b": 0.1}, power=0, ratio=0.5)
    flat = {name: torch.cat([w.flatten().abs() for w in weights]) for name, weights in groups().items()}
    median = torch.cat(list(flat.values())).sort().values[sum(map(len, flat.values())) // 2]
    assert rates == {name: float((values < median).double().mean()) for name, values in flat.items()}


def test_a_cost_divides_the_weights() -> None:
    """Multiplying a layer's cost by s is dividing its weights by s ** power."""
    costly = cross_layer_rates(groups(), {"a": 1.0, "b": 3.0}, power=2.0, ratio=0.6)
    divided = {"a": groups()["a"], "b": [w / 9 for w in groups()["b"]]}
    assert costly == pytest.approx(cross_layer_rates(divided, {"a": 1.0, "b": 1.0}, 2.0, 0.6), abs=1e-3)
    assert costly["b"] > cross_layer_rates(groups(), {"a": 1.0, "b": 1.0}, 2.0, 0.6)["b"], "dearer layers lose more"


def test_equal_layers_lose_equally() -> None:
    alike = {name: [random(64, 64, 3, 3, seed=i)] for i, name in enumerate("abc")}
    rates = cross_layer_rates(alike, dict.fromkeys("abc", 1.0), 0.5, 0.7)
    assert max(rates.values()) - min(rates.values()) < 0.01


VGG_COSTS = (1, 18.15625, 9.07812, 18.07812, 9.03906, 18.03906, 18.03906, 9.01953, 18.01953, 18.01953, *[4.50488] * 3)
V1_COSTS = (1, 2.74194, 2.40323, 4.67742, 2.23387, 4.40323, 2.14919, *[4.26613] * 5, 2.10685)


def test_costs_of_vgg_and_resnet_are_the_published_ones() -> None:
    with torch.device("meta"):
        vgg, resnet = models.build("vgg", depth=16, conv_bias=True), models.build("resnet_cifar", blocks=[9, 9, 9])
    vgg_ranking = Ranking(method(ratio=0.86).config, vgg, CIFAR)
    assert list(vgg_ranking.costs.values()) == pytest.approx(VGG_COSTS, abs=6e-6)
    ranking = Ranking(method(ratio=0.56, layers=["stages.*.conv1"]).config, resnet, CIFAR)
    expected = [1, *[0.9052] * 8, 0.67278, *[0.89297] * 8, 0.66667, *[0.88685] * 8]
    assert list(ranking.costs.values()) == pytest.approx(expected, abs=6e-6)


def test_costs_of_mobilenet_are_those_of_depthwise_and_pointwise_pairs() -> None:
    with torch.device("meta"):
        model = models.build("mobilenet_v1")
    units = ["stem", *(f"blocks.{i}" for i in range(13))]
    assert relative_costs(model, IMAGENET, units)[:13] == pytest.approx(V1_COSTS[:13], abs=6e-6)


def test_resnet50_ranks_two_convolutions_per_block_and_one_group_per_stage() -> None:
    with torch.device("meta"):
        model = models.build("resnet50")
    options = setting("resnet50_r44")
    ranking = Ranking(CLRRNF.Config(**options), model, IMAGENET)
    assert len(ranking.ranked) == 36 and [len(ranking.groups[f"stages.{s}"]) for s in range(4)] == [3, 4, 6, 3]
    assert not any("shortcut" in name for c in ranking.ranked.values() for name, _ in c.added)
    assert [ranking.costs[f"stages.{s}"] for s in range(4)] == [2, 1.5, 1, 0.5]
    assert ranking.costs["stages.1.3.conv2"] == 1.5


def setting(name: str) -> dict:
    return Plan(ROOT, "paper", ["clr_rnf"]).declarations["clr_rnf"].settings[name].hyperparameters


def test_a_vanished_layer_is_refused_or_kept_alive() -> None:
    model = network("plain", widths=[8, 8], strides=[2, 2])
    with torch.no_grad():
        model.get_submodule("body.1.conv").weight.mul_(1e-3)
    with pytest.raises(UserError, match=r"leaves no filter of body\.1\.conv.*least"):
        Ranking(method(ratio=0.9, power=0).config, model, (1, 14, 14)).widths(0.9)
    assert Ranking(method(ratio=0.9, power=0, least=1).config, model, (1, 14, 14)).widths(0.9)["body.1.conv"] == 1


def test_the_ratio_that_removes_a_share_of_the_macs() -> None:
    model, shape = network("vgg", in_channels=1, stages=[(2, 16), (2, 32), (2, 64)]), (1, 28, 28)
    ranking = Ranking(method(macs_reduction=0.75).config, model, shape)
    rate = ranking.rate()
    share = [cost_of(model, ranking.widths(r), macs(shape)) / macs(shape)(model) for r in (rate, rate - RATE_STEP)]
    assert share[0] <= 0.25 < share[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either ratio or macs_reduction"),
        ({"ratio": 0.5, "macs_reduction": 0.5}, "either"),
        ({"ratio": 0.5, "structure": "uniform"}, "needs macs_reduction"),
        ({"ratio": 1.0}, "less than 1"),
    ],
)
def test_wrong_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method(**options)


def test_a_width_without_a_cost_is_named() -> None:
    with pytest.raises(UserError, match=r"costs has no entry for body\.1\.conv"):
        Ranking(method(ratio=0.5, costs={"body.0*": 1}).config, network("plain"), (1, 28, 28))


# ---- which


def by_intersection(filters: Tensor, count: int) -> set[int]:
    """The paper's loop: everybody recommends its k nearest, k grows until enough are recommended by all."""
    flat = filters.flatten(1)
    distance = ((flat[:, None] - flat[None]) ** 2).sum(2)
    distance.fill_diagonal_(-1)
    order = distance.argsort(dim=1, stable=True).tolist()
    k, before = count, set()
    while len(common := set.intersection(*(set(row[:k]) for row in order))) < count:
        k, before = k + 1, common
    return before | set(sorted(common - before)[: count - len(before)])


@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_closed_form_equals_the_growing_intersection(filters: int, size: int, seed: int) -> None:
    weight = random(filters, size, seed=seed)
    for count in range(1, filters + 1):
        found = reciprocal_nearest(weight, count)
        assert set(found.tolist()) == by_intersection(weight, count)
        assert found.tolist() == sorted(found.tolist()) and len(found) == count


def test_one_dimensional_example() -> None:
    filters = torch.tensor([0.0, 1.0, 2.0, 3.0, 10.0])[:, None]
    assert worst_ranks(filters).tolist() == [5, 4, 3, 4, 5]
    assert reciprocal_nearest(filters, 1).tolist() == [2]
    assert reciprocal_nearest(filters, 3).tolist() == [1, 2, 3]
    assert reciprocal_nearest(filters, 5).tolist() == [0, 1, 2, 3, 4]


def test_selection_follows_permutations_and_ignores_a_common_shift() -> None:
    weight, order = random(24, 6, 3, 3), torch.randperm(24, generator=torch.Generator().manual_seed(1))
    ranks = worst_ranks(weight).sort().values
    untied = [n for n in range(1, 24) if ranks[n - 1] < ranks[n]]
    assert len(untied) > 3
    for count in untied:
        kept = reciprocal_nearest(weight, count)
        assert set(order[reciprocal_nearest(weight[order], count)].tolist()) == set(kept.tolist())
        assert torch.equal(reciprocal_nearest(weight + random(1, 6, 3, 3, seed=2), count), kept)


def test_the_similarity_of_the_paper_orders_alike() -> None:
    weight = 0.3 * random(16, 9)
    similarity = torch.exp(-(torch.cdist(weight, weight) ** 2))
    similarity = similarity / similarity.sum(1, keepdim=True)
    ranks = similarity.argsort(dim=1, descending=True, stable=True).argsort(dim=1) + 1
    assert torch.equal(ranks.max(0).values, worst_ranks(weight))


def test_no_filter_or_too_many_are_refused() -> None:
    for count in (0, 5):
        with pytest.raises(ValueError, match="cannot be kept"):
            reciprocal_nearest(torch.zeros(4, 2), count)


@pytest.mark.parametrize(("spread", "least"), [(0.0, 0.5), (0.3, 0.8)])
def test_filters_of_small_norm_are_near_to_all(spread: float, least: float) -> None:
    """The finding: worst rank and norm correlate, 0.7 for i.i.d. Gaussian filters, more where norms differ."""
    scale = 1 + spread * random(128, 1, seed=5)
    weight = random(128, 144, seed=4) * scale
    both = torch.stack([worst_ranks(weight).double(), weight.norm(dim=1)])
    assert torch.corrcoef(both)[0, 1] > least
    kept = reciprocal_nearest(weight, 64)
    assert weight[kept].norm(dim=1).mean() < weight.norm(dim=1).mean()


def test_selection_of_a_resnet50_takes_seconds() -> None:
    widest = random(2048, 512).float()
    start = time.perf_counter()
    assert len(reciprocal_nearest(widest, 1000)) == 1000
    assert time.perf_counter() - start < 15


# ---- what is inherited


def test_inherited_rows_are_the_dense_rows_and_the_rest_starts_afresh() -> None:
    model, shape = network("vgg", in_channels=1, stages=[(2, 8), (1, 12)], conv_bias=True), (1, 28, 28)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5), nn.init.uniform_(module.running_mean)
        elif isinstance(module, nn.Conv2d):
            nn.init.uniform_(module.bias)
    clr = method(ratio=0.5)
    kept = clr.kept(model, Ranking(clr.config, model, shape).widths(0.5), torch.Generator())
    narrow = restart(keep_filters(model, kept), list(kept), "all", torch.Generator().manual_seed(0))
    columns = torch.arange(1)
    for key, rows in kept.items():
        assert torch.equal(narrow.get_submodule(key).weight, model.get_submodule(key).weight[rows][:, columns])
        assert not narrow.get_submodule(key).bias.any()
        columns = rows
    for norm in (m for m in narrow.modules() if isinstance(m, nn.BatchNorm2d)):
        assert (norm.weight == 1).all() and not norm.bias.any()
        assert not norm.running_mean.any() and (norm.running_var == 1).all()
    assert not narrow.classifier.bias.any() and 0.005 < narrow.classifier.weight.std() < 0.015


def test_residual_networks_keep_what_is_not_behind_a_pruned_layer() -> None:
    model = network("resnet_cifar", in_channels=1, blocks=[2, 1, 1])
    for module in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(module.weight, 0.5, 1.5)
    clr = method(ratio=0.5, power=1, layers=["stages.*.conv1"])
    kept = clr.kept(model, Ranking(clr.config, model, (1, 28, 28)).widths(0.5), torch.Generator())
    narrow = restart(keep_filters(model, kept), list(kept), "pruned", torch.Generator())
    before, after = model.state_dict(), narrow.state_dict()
    same = {
        name
        for name, tensor in after.items()
        if tensor.shape == before[name].shape and torch.equal(tensor, before[name])
    }
    assert {n for n in before if n.startswith(("stem", "classifier")) or ".bn2." in n} <= same
    assert (narrow.get_submodule("stages.1.0.bn1").weight == 1).all()


def test_nothing_removed_gives_back_the_dense_convolutions() -> None:
    model = network("resnet_cifar", in_channels=1, blocks=[1, 1, 1])
    clr = method(ratio=0.0, layers=["stages.*.conv1"])
    kept = clr.kept(model, Ranking(clr.config, model, (1, 28, 28)).widths(0.0), torch.Generator())
    narrow = keep_filters(model, kept)
    assert same_bits(narrow.state_dict(), model.state_dict())


def test_a_residual_sum_keeps_the_same_channels_everywhere() -> None:
    model = network("resnet50", classes=10)
    clr = CLRRNF(CLRRNF.Config(**setting("resnet50_r44")))
    widths = Ranking(clr.config, model, (3, 64, 64)).widths(0.44)
    start = time.perf_counter()
    kept = clr.kept(model, widths, torch.Generator())
    assert time.perf_counter() - start < 40, "all 37 selections at ResNet-50 size"
    narrow = keep_filters(model, kept)
    assert len(kept["stem.conv"]) == widths["stem.conv"]
    for s in range(4):
        sum_ = couplings_like(model, [f"stages.{s}"])[f"stages.{s}"]
        for conv, norm in sum_.outputs:
            assert torch.equal(narrow.get_submodule(norm).weight, model.get_submodule(norm).weight[kept[sum_.key]])
            assert narrow.get_submodule(conv).out_channels == widths[sum_.key]
    first = model.get_submodule("stages.0.0.conv3").weight[:, kept["stages.0.0.conv2"]]
    assert torch.equal(kept["stages.0"], reciprocal_nearest(first, widths["stages.0"]))


def test_uniform_widths_are_those_of_the_l1_baseline(data_root: Path, tmp_path: Path) -> None:
    ctx = make_context(data_root, tmp_path)
    uniform = method(macs_reduction=0.4, structure="uniform", layers=["stages.*.conv1"]).compress(ctx)
    assert uniform.spec == L1Filter(L1Filter.Config(macs_reduction=0.4)).compress(ctx).spec
    assert "ratio" not in ctx.records and ctx.records["macs_reduction"] >= 0.4


@pytest.mark.parametrize(
    "options", [{}, {"filters": "l1"}, {"filters": "random"}, {"weights": "scratch"}, {"weights": "short_scratch"}]
)
def test_controls_have_the_same_widths_and_every_run_the_same_bits(
    data_root: Path, tmp_path: Path, options: dict
) -> None:
    ctx = make_context(data_root, tmp_path)
    chosen = {"macs_reduction": 0.3, "power": 10, "layers": ["stages.*.conv1"]}
    first, second = (method(**chosen, **options).compress(ctx) for _ in range(2))
    assert same_bits(first.state_dict(), second.state_dict())
    plain = method(**chosen).compress(ctx)
    assert first.spec == plain.spec
    assert ctx.records["macs_reduction"] >= 0.3


def test_scratch_trains_for_the_total_budget(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx, used = make_context(data_root, tmp_path, "finetune"), []
    monkeypatch.setattr(ctx, "fit", lambda model, recipe: used.append(recipe) or model)
    monkeypatch.setattr(type(ctx), "recipes", SimpleNamespace(scratch="total", finetune="after"))
    for weights in ("inherited", "scratch", "short_scratch"):
        method(ratio=0.5, weights=weights).finetune(ctx, nn.Identity())
    assert used == ["after", "total", "after"]


# ---- as published


def test_counts_are_the_published_ones() -> None:
    found = {(f.model, f.setting, f.metric): f.value for f in recompute()}
    dense = {
        "vgg16": (314_036_736, 313_201_664, 14_728_266, 4224),
        "resnet56": (126_555_456, 125_485_696, 853_018, 2032),
        "resnet110": (254_989_632, 252_887_680, 1_727_962, 4048),
        "googlenet": (1_529_432_064, 1_521_756_160, 6_166_250, 7904),
        "resnet50": (4_113_562_624, 4_089_184_256, 25_557_032, 26560),
        "mobilenet_v1": (579_849_728, 568_740_352, 4_231_976, None),
        "mobilenet_v2": (315_410_496, 300_774_272, 3_504_872, None),
    }
    for name, values in dense.items():
        for metric, value in zip(("flops", "macs", "params", "filters"), values, strict=True):
            assert value is None or found[name, "dense", metric] == value
    hand = {
        "vgg16": (82_925_115, 1_233_094), "resnet56": (58_007_360, 376_986),
        "resnet110": (96_486_592, 615_152), "googlenet": (484_556_480, 2_077_828),
    }  # fmt: skip
    assert {n: (found[n, "hand_designed", "flops"], found[n, "hand_designed", "params"]) for n in hand} == hand


def test_hand_designed_widths_are_the_published_ones() -> None:
    widths = {n.name: list(n.widths().values()) for n in PUBLISHED if n.rates}
    assert widths["vgg16"] == [32, 41, 83, 83, 166, 166, 166, *[102] * 4, *[51] * 2]
    resnet = {n.name: [w for k, w in n.widths().items() if k.endswith("conv1")] for n in PUBLISHED[1:3]}
    assert resnet["resnet56"] == [14, *[7] * 8, *[14] * 9, *[28] * 9]
    assert resnet["resnet110"] == [14, *[6] * 17, *[12] * 18, 25, *[22] * 17]
    pruned = [w for k, w in PUBLISHED[3].widths().items() if k.split(".")[2] in ("reduce3", "reduce5", "conv5a")]
    triples = "19 3 6 25 6 19 19 3 9 22 4 12 25 4 12 21 4 9 15 3 12 15 3 12 19 4 12"
    assert pruned == [int(w) for w in triples.split()]


def test_published_recipes() -> None:
    plan = Plan(ROOT, "paper", ["clr_rnf"])
    recipes = {(r.model, r.setting): plan.pair(r).finetune for r in plan.runs if r.seed == 0}
    small = recipes["vgg16", "vgg16"]
    assert (small.epochs, small.lr, small.weight_decay, small.milestones) == (150, 0.01, 5e-3, (50, 100))
    step, cosine = recipes["resnet50", "resnet50_r44"], recipes["resnet50", "resnet50_r44_cosine"]
    assert (step.epochs, step.lr, step.milestones, step.warmup_epochs) == (90, 0.1, (30, 60, 80), 5)
    assert cosine == step.model_copy(update={"schedule": "cosine_by_epoch", "milestones": ()})
    rate = schedule_factor(Recipe.model_validate(cosine.model_dump()), 90, 10)
    assert rate(50) == 1 and 0 < rate(899) < 0.002


PAPER = [
    ("cifar10/vgg16", "vgg16"),
    ("cifar10/resnet56", "resnet56"),
    ("cifar10/resnet110", "resnet110"),
    ("cifar10/googlenet", "googlenet"),
    ("imagenet/resnet50", "resnet50_r44"),
]


@pytest.mark.parametrize(("pair", "name"), PAPER, ids=[p for p, _ in PAPER])
def test_one_iteration_at_full_size(tmp_path: Path, pair: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("methods.clr_rnf.method.record_untrained_quality", lambda *_: None)  # 100 forward passes
    ctx = full_size_context(tmp_path, pair, "clr_rnf", name)
    clr = CLRRNF(CLRRNF.Config(**setting(name) | {"filters": "l1", "least": 1}))
    narrow = clr.compress(ctx)
    before = {n: t.clone() for n, t in narrow.state_dict().items()}
    shape = ctx.info.image_shape
    counts = accounting.account(narrow, shape), accounting.account(ctx.build(), shape)
    assert counts[0].params < counts[1].params and counts[0].macs < counts[1].macs
    after = clr.finetune(ctx, narrow).state_dict()
    moved = [n for n, t in after.items() if n.endswith("weight") and not torch.equal(t, before[n])]
    assert len(moved) == sum(n.endswith("weight") for n in after)
    assert run_exists(pair, name)


def run_exists(pair: str, name: str) -> bool:
    dataset, model = pair.split("/")
    return Run("paper", dataset, model, "clr_rnf", name, 0) in Plan(ROOT, "paper", ["clr_rnf"]).runs
