"""PSS-Net: the structure space, the pools, the sandwich rule, and one checkpoint for several budgets."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressbench import accounting, models, registry, storage
from compressbench.compression.latency_table import LatencyTable, keys_of, measured_table
from compressbench.compression.supernet import (
    Constraint,
    Sampler,
    Space,
    SupernetConfig,
    decayed,
    prepare,
    sandwich,
)
from compressbench.config import Declaration, Pair, load_scale, parse, read_yaml
from compressbench.errors import UserError
from compressbench.models.mobilenet import round_channels
from compressbench.models.subnets import Layout, Subnet, as_tensors, block_of, rounded_channels
from compressbench.models.switchable import Switchable
from compressbench.operating_points import Adaptive, Blockwise
from compressbench.plan import Plan
from compressbench.stages.context import Context
from methods.baselines.separate_subnets.method import SeparateSubnets
from methods.baselines.uniform_subnets.method import UniformSubnets
from methods.pss_net.facts import distinct_networks, network_at
from methods.pss_net.method import Prioritized, PSSNet, PSSNetConfig
from methods.pss_net.pools import Pools, annealed, priorities
from tests.conftest import ROOT
from tests.methods.context import full_size_context

TINY = {"in_channels": 1, "widths": [32, 64, 64, 128], "strides": [1, 2, 1, 2]}
SMALL = {
    "resolutions": (8, 16), "resolution_step": 4, "min_width": 0.5, "samples": 2000,
    "constraints": ({"unit": 1e3, "start": 20, "stop": 200, "step": 40},),
}  # fmt: skip
ENDS = {
    "min": {"label": "smallest", "resolution": 20, "widths": [0.5] * 5, "cost": {"macs": 98_640}},
    "middle": {"label": "middle", "resolution": 24, "widths": [0.9, 0.6, 0.7, 1.0, 0.6], "cost": {"macs": 300_000}},
    "max": {"label": "largest", "resolution": 28, "widths": [1.0] * 5, "cost": {"macs": 643_808}},
}


def layout(name: str = "mobilenet_mini", **arguments: object) -> Layout:
    with torch.device("meta"):
        return Layout(models.build(name, **(arguments or (TINY if name == "mobilenet_mini" else {}))))


def build() -> Switchable:
    torch.manual_seed(0)
    model = models.build("switchable", network={"architecture": "mobilenet_mini", "arguments": TINY}, points=ENDS)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
    return model


def space() -> Space:
    return Space(layout(), 20, 28, 4, 0.5)


def sampler(seed: int = 0, samples: int = 4000) -> Sampler:
    chosen = space()
    constraint = Constraint(start=100, stop=650, step=50, unit=1e3)
    return Sampler(chosen, [constraint], {"macs": chosen.layout.macs}, samples, torch.Generator().manual_seed(seed))


@pytest.fixture
def ctx(tmp_path: Path, data_root: Path) -> Context:
    recipe = {"epochs": 2, "batch_size": 64, "steps_per_epoch": 4, "lr": 0.1, "nesterov": True, "weight_decay": 1e-4}
    pair = Pair.model_validate(
        {"architecture": "mobilenet_mini", "arguments": TINY, "scratch": recipe, "pretrain": recipe, "finetune": recipe}
    )
    return Context(
        root=data_root, stage="compress", seed=0, pair=pair, dataset="digits", folder=tmp_path / "compress",
        device=torch.device("cpu"),
    )  # fmt: skip


# ---- the space of structures


def test_channels_are_multiples_of_eight_and_lose_less_than_ten_percent() -> None:
    values = torch.tensor([7, 11.9, 12, 18, 20, 28, 31.2, 45.1], dtype=torch.float64)
    assert rounded_channels(values).tolist() == [8, 16, 16, 24, 24, 32, 32, 48]
    many = torch.arange(8, 2000, 0.1, dtype=torch.float64)
    assert (rounded_channels(many) >= 0.9 * many).all()
    assert rounded_channels(many)[::97].tolist() == [round_channels(v) for v in many[::97].tolist()]


FLOPS = {
    "mobilenet_v1": (568_790_528, 106_782_720, 186_417_152, 325_438_080, 342_781_760),
    "mobilenet_v2": (300_836_992, 69_150_208, 99_094_528, 209_132_512, 198_034_112),
}
PARAMS = {
    "mobilenet_v1": (4_231_976, 2_585_560, 4_231_976, 2_585_560, 3_539_768),
    "mobilenet_v2": (3_504_872, 2_636_424, 3_504_872, 2_636_424, 3_141_800),
}
UNIFORM = ((224, 1.0), (128, 0.75), (128, 1.0), (224, 0.75), (192, 0.9))


@pytest.mark.parametrize("name", FLOPS)
def test_published_costs_are_exact_in_the_resource_model_and_in_the_networks(name: str) -> None:
    own = layout(name)
    structures = as_tensors([Subnet(r, (w,) * own.stages) for r, w in UNIFORM])
    assert own.macs(*structures).tolist() == list(FLOPS[name])
    for (resolution, width), flops, params in list(zip(UNIFORM, FLOPS[name], PARAMS[name], strict=True))[1::3]:
        network = network_at(name, resolution, width)
        assert accounting.flops(network, (3, 224, 224), "macs_with_pool") == flops
        assert sum(p.numel() for p in network.parameters()) == params


def test_the_desk_network_has_the_macs_of_its_specification() -> None:
    assert space().layout.macs(*as_tensors([space().largest, space().smallest])).tolist() == [643_808, 98_640]


def test_the_spaces_have_as_many_networks_as_counted() -> None:
    assert distinct_networks(layout("mobilenet_v1")) == 4_151_844_106_645_950
    assert distinct_networks(layout("mobilenet_v2")) == 41_184


def test_the_ninth_multiplier_of_v2_changes_nothing() -> None:
    v2 = layout("mobilenet_v2")
    one, other = Subnet(192, (0.9,) * 8 + (0.75,)), Subnet(192, (0.9,) * 8 + (1.0,))
    assert v2.stages == 9 and v2.channels(one) == v2.channels(other)
    assert v2.macs(*as_tensors([one]))[0] == v2.macs(*as_tensors([other]))[0]


def test_uniform_structures_reach_the_targets_that_were_counted() -> None:
    generator = torch.Generator().manual_seed(0)
    for name, start, stop, reached in (("mobilenet_v1", 110, 570, (120, 510)), ("mobilenet_v2", 70, 300, (80, 290))):
        own = layout(name)
        drawn = Space(own, 128, 224, 8, 0.75).sample(100_000, generator)
        constraint = Constraint(start=start, stop=stop, step=10)
        counts = Counter(constraint.target(own.macs(*drawn)).tolist())
        hit = [target for target in constraint.targets if counts[target]]
        assert abs(hit[0] - reached[0]) <= 10 and abs(hit[-1] - reached[1]) <= 10
        assert set(drawn[0].unique().tolist()) == set(range(128, 225, 8))
        assert 0.4 < (drawn[0] == 128).sum() / (drawn[0] == 136).sum() < 0.6
    assert not any(counts[t] for t in range(520, 561, 10))


def test_targets_round_to_even_multiples() -> None:
    constraint = Constraint(start=110, stop=570, step=10)
    assert constraint.target(torch.tensor([125e6, 135e6, 126e6], dtype=torch.float64)).tolist() == [120, 140, 130]
    assert list(constraint.targets)[::44] == [120, 560] and len(constraint.targets) == 45
    shifted = Constraint(start=105, stop=205, step=10)
    assert shifted.target(torch.tensor([118e6, 121e6], dtype=torch.float64)).tolist() == [115, 125]


def test_a_cost_just_above_a_tie_belongs_to_the_upper_target() -> None:
    constraint = Constraint(start=110, stop=570, step=10)
    costs = torch.tensor([124_999_999, 125_000_000, 125_000_001, 134_999_999, 135_000_000, 135_000_001])
    assert constraint.target(costs).tolist() == [120, 120, 130, 130, 140, 140]


def test_conditional_structures_have_the_target_and_the_tables_frequencies() -> None:
    own = sampler()
    budget = own.budgets[4]
    generator = torch.Generator().manual_seed(1)
    drawn = [own.draw(budget, generator) for _ in range(200)]
    costs = own.costs["macs"](*as_tensors(drawn))
    assert (budget.constraint.target(costs) == budget.target).all()
    assert len(set(drawn)) > 190
    shares = Counter(s.resolution for s in drawn)
    table = own.tables[budget][0]
    assert abs(shares[24] / 200 - (table == 24).double().mean()) < 0.25


# ---- the switchable network


def test_a_switched_network_equals_the_fixed_one() -> None:
    model = build().eval()
    images = torch.randn(5, 1, 28, 28)
    norms = [m for m in model.modules() if hasattr(m, "means")]
    for norm in norms:
        norm.means.normal_()
        norm.variances.uniform_(0.5, 2)
    for point in model.operating_points:
        fixed = model.at(point)
        assert type(next(m for m in fixed.modules() if isinstance(m, nn.Conv2d))) is nn.Conv2d
        assert torch.allclose(model.switch(point)(images), fixed(images), atol=1e-5)
    outputs = [model.switch(p)(images) for p in model.operating_points]
    assert not torch.allclose(outputs[0], outputs[1])
    assert isinstance(model, Adaptive)


def test_an_operating_point_copies_no_weight() -> None:
    model = build()
    weight = model.network.blocks[1].pointwise.conv.weight
    assert model.at("min").network.blocks[1].pointwise.conv.weight.data_ptr() == weight.data_ptr()


def test_a_stored_model_comes_back_with_its_points(tmp_path: Path) -> None:
    model = build().eval()
    storage.save_model(model, tmp_path)
    again = storage.load_model(tmp_path)
    images = torch.randn(2, 1, 28, 28)
    assert again.operating_points == {"min": "smallest", "middle": "middle", "max": "largest"}
    assert torch.equal(again.at("middle")(images), model.at("middle")(images))


def test_a_budget_chooses_the_most_expensive_point_that_it_pays() -> None:
    model = build()
    assert [model.within(b) for b in (1e5, 299_999, 300_000, 1e9)] == ["min", "min", "middle", "max"]
    with pytest.raises(UserError, match="no operating point costs at most 5000 macs: the least is 98640"):
        model.within(5000)
    with pytest.raises(UserError, match="not known in 'latency'"):
        model.within(5000, "latency")
    with pytest.raises(UserError, match="unknown operating point 'half'"):
        model.at("half")


def test_channels_outside_the_slice_get_no_gradient_and_do_not_move() -> None:
    model, smallest = build().train(), space().smallest
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    F.cross_entropy(model.switch(smallest)(torch.randn(8, 1, 28, 28)), torch.arange(8)).backward()
    conv = model.network.blocks[1].pointwise.conv
    assert conv.active == 32 and not conv.weight.grad[32:].any() and not conv.weight.grad[:, 16:].any()
    assert conv.weight.grad[:32, :16].any()
    optimizer.step()
    assert torch.equal(conv.weight[32:], before["network.blocks.1.pointwise.conv.weight"][32:])
    bn = model.network.blocks[3].depthwise.bn
    assert torch.equal(bn.weight[32:], before["network.blocks.3.depthwise.bn.weight"][32:])


def test_only_ordinary_convolutions_and_the_linear_weight_decay() -> None:
    model = build()
    with_decay, without = decayed(model, 1e-4)
    shapes = [tuple(p.shape) for p in with_decay["params"]]
    assert len(shapes) == 6 and with_decay["weight_decay"] == 1e-4 and without["weight_decay"] == 0
    assert not any(len(s) == 4 and s[1] == 1 and s[0] != 16 for s in shapes)
    assert len(with_decay["params"]) + len(without["params"]) == len(list(model.parameters()))


def test_weights_start_with_the_full_fan_out() -> None:
    model = build()
    depthwise = model.network.blocks[3].depthwise.conv.weight.detach()
    assert depthwise.std() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.15)
    assert model.network.classifier.weight.detach().std() == pytest.approx(0.01, rel=0.1)


# ---- the sandwich rule


def test_no_gradient_flows_through_the_teacher() -> None:
    model, structures = build().train(), space()
    images, labels = torch.randn(8, 1, 28, 28), torch.arange(8)
    loss, logits = sandwich(model, structures, Subnet(24, (0.75,) * 5), images, labels)
    (loss - F.cross_entropy(model.switch(structures.largest)(images), labels)).backward()
    conv = model.network.blocks[1].pointwise.conv
    assert conv.weight.grad[56:].abs().max() < 1e-6  # channels that only the largest network has
    assert conv.weight.grad[:32].abs().max() > 1e-4
    assert logits.shape == (8, 10)


def test_the_loss_is_the_sum_of_its_three_parts() -> None:
    model, structures, middle = build().train().double(), space(), Subnet(24, (0.75,) * 5)
    images, labels = torch.randn(8, 1, 28, 28, dtype=torch.float64), torch.arange(8)
    z = {s: model.switch(s)(images).detach() for s in (structures.largest, middle, structures.smallest)}
    q = z[structures.largest].softmax(1)
    divergences = [(q * (q.log() - z[s].softmax(1).log())).sum(1).mean() for s in (middle, structures.smallest)]
    expected = F.cross_entropy(z[structures.largest], labels) + sum(divergences)
    loss, logits = sandwich(model, structures, middle, images, labels)
    assert torch.allclose(loss, expected, rtol=1e-12) and torch.allclose(logits, z[middle])


# ---- pools and priorities


def test_the_annealing_is_geometric() -> None:
    expected = {0: 1.0, 62: 0.319154, 125: 0.1, 200: 0.025119, 249: 0.010186}
    for epoch, value in expected.items():
        assert annealed(1.0, 0.01, epoch, 250) == pytest.approx(value, abs=5e-7)


def test_better_scores_are_drawn_more_often() -> None:
    scores = torch.tensor([-2.1, -1.9, -1.95, -2.5, -1.85], dtype=torch.float64)
    assert priorities(scores, 1.0).tolist() == pytest.approx([0.18735, 0.22883, 0.21767, 0.12558, 0.24056], abs=5e-6)
    assert priorities(scores, 0.1)[4] == pytest.approx(0.48591, abs=5e-6)
    assert priorities(scores, 0.01)[4] == pytest.approx(0.99326, abs=5e-6)
    pools = Pools(1, 5, 2, 0.9)
    for i, score in enumerate(scores.tolist()):
        pools.update(0, Subnet(20 + i, (0.5, 0.5)), score)
    torch.manual_seed(0)
    drawn = Counter(pools.draw(0, 0.1).resolution for _ in range(4000))
    assert drawn[24] / 4000 == pytest.approx(0.48591, abs=0.03)


def test_a_full_pool_loses_its_worst_structure_even_the_newcomer() -> None:
    pools = Pools(2, 2, 1, 0.9)
    a, b, c, d = (Subnet(20, (w,)) for w in (0.5, 0.6, 0.7, 0.8))
    for subnet, score in ((a, -2.0), (b, -1.0), (c, -3.0)):
        pools.update(1, subnet, score)
    assert {pools.structure(1, i) for i in range(2)} == {a, b} and not pools.sizes[0]
    pools.update(1, d, -1.5)
    assert {pools.structure(1, i) for i in range(2)} == {b, d}
    assert pools.best(1) == b and pools.worst(1) == d and pools.is_full(1) and not pools.is_full(0)


def test_a_known_structure_keeps_nine_tenths_of_its_score() -> None:
    pools = Pools(1, 3, 1, 0.9)
    pools.update(0, Subnet(20, (0.5,)), -2.0)
    pools.update(0, Subnet(20, (0.5,)), -1.0)
    assert int(pools.sizes[0]) == 1 and pools.scores[0, 0] == pytest.approx(-1.9)
    pools.update(0, Subnet(20, (0.501,)), -1.0)  # the same channels, but another structure
    assert int(pools.sizes[0]) == 2


def prioritized(ctx: Context, **changes: object) -> Prioritized:
    config = parse(PSSNetConfig, SMALL | {"pool_size": 3} | changes, "test")
    return Prioritized(prepare(ctx, config), config)


def test_fresh_structures_are_drawn_with_probability_p_and_while_a_pool_is_not_full(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = prioritized(ctx)
    budget = trained.supernet.sampler.budgets[0]
    marker = Subnet(8, (0.5,) * 5)
    monkeypatch.setattr(trained.supernet.sampler, "draw", lambda _: marker)
    torch.manual_seed(0)
    trained.explore = 0.0
    assert all(trained.draw(0, budget) == marker for _ in range(20)), "the pool is not full"
    for i in range(3):
        trained.pools.update(0, Subnet(16, (0.6 + 0.1 * i,) * 5), -1.0)
    assert all(trained.draw(0, budget) != marker for _ in range(20))
    trained.explore = 0.3
    fresh = sum(trained.draw(0, budget) == marker for _ in range(2000)) / 2000
    assert fresh == pytest.approx(0.3, abs=0.035)


def test_every_structure_of_a_pool_has_its_target_and_a_score_of_minus_the_loss(ctx: Context) -> None:
    trained = prioritized(ctx)
    torch.manual_seed(0)
    images, labels = torch.randn(16, 1, 16, 16), torch.arange(16) % 10
    for _ in range(12):
        trained.loss(trained, (images, labels))
    assert (trained.pools.sizes <= 3).all() and trained.pools.sizes.sum() > 5
    for pool, budget in enumerate(trained.supernet.sampler.budgets):
        for slot in range(int(trained.pools.sizes[pool])):
            structure = as_tensors([trained.pools.structure(pool, slot)])
            assert budget.constraint.target(trained.supernet.costs["macs"](*structure)) == budget.target
            assert -4 < trained.pools.scores[pool, slot] < -1.5


# ---- statistics of a deployed structure


def test_statistics_are_the_mean_over_nine_batches(ctx: Context) -> None:
    supernet = prepare(ctx, parse(SupernetConfig, SMALL, "test"))
    network = ctx.recalibrate(supernet.model.at("min"), 9)
    source = ctx.batches(ctx.recipes.finetune)
    assert source.steps_per_epoch > 12
    seen: list[Tensor] = []
    stem = network.network.stem.conv
    handle = stem.register_forward_hook(lambda *args: seen.append(args[2]))
    for step in range(12):
        network(source(step)[0])
    handle.remove()
    means = torch.stack([out.mean((0, 2, 3)) for out in seen[:9]]).mean(0)
    variances = torch.stack([out.transpose(0, 1).flatten(1).var(1) for out in seen[:9]]).mean(0)
    norm = supernet.model.network.stem.bn
    assert torch.allclose(norm.means[0, :8], means, atol=1e-5) and torch.allclose(
        norm.variances[0, :8], variances, atol=1e-5
    )
    assert (norm.means[0, 8:] == 0).all() and (norm.variances[0, 8:] == 1).all()
    assert not torch.allclose(norm.running_mean[:8], means)


# ---- latency tables


def test_a_table_is_the_sum_over_the_blocks_and_names_a_missing_entry() -> None:
    own = layout()
    keys = keys_of(own, (20, 24, 28), torch.linspace(0.5, 1, 501, dtype=torch.float64))
    table = LatencyTable({key: float(i) for i, key in enumerate(keys)})
    drawn = space().sample(300, torch.Generator().manual_seed(0))
    blocks = own.blocks(*drawn)
    assert table(blocks)[7] == sum(table.entries[block.table_keys()[7]] for block in blocks)
    del table.entries[blocks[2].table_keys()[0]]
    with pytest.raises(UserError, match="the latency table has no entry"):
        table(blocks)


def test_blocks_of_the_table_are_timed_and_predict_the_network(tmp_path: Path) -> None:
    config = parse(SupernetConfig, SMALL | {"resolutions": (8, 8), "min_width": 0.9}, "test")
    own = layout()
    table = measured_table(own, config, lambda network, example: float(network.eval()(example).numel()))
    table.save(tmp_path / "table.json")
    again = LatencyTable.load(tmp_path / "table.json")
    assert again.entries == table.entries
    blocks = own.of(Subnet(8, (1.0,) * 5))
    expected = sum(float(block.outputs * (1 if block.kind == "linear" else block.size_out**2)) for block in blocks)
    assert again(blocks)[0] == expected
    network, example = block_of(("inverted", 14, 24, 32, 144, 3, 2, 1), nn.ReLU6)
    assert network(example).shape == (1, 32, 7, 7)


def test_the_blocks_of_a_point_are_a_chain_from_image_to_logits() -> None:
    model = build()
    assert isinstance(model, Blockwise)
    for name, point in ENDS.items():
        chain = [model.block(key) for key in model.blocks(name)]
        shapes = [example.shape for _, example in chain]
        assert shapes[0] == (1, 1, point["resolution"], point["resolution"])  # the resize before it is not in the table
        assert [network.eval()(example).shape for network, example in chain] == [*shapes[1:], (1, 10)]
        costs = [accounting.flops(network, tuple(x.shape[1:]), "macs_with_pool") for network, x in chain]
        assert sum(costs) == model.layout.macs(*as_tensors([model.subnet(name)])).item()


def test_budgets_in_latency_deploy_structures_of_that_latency(ctx: Context, tmp_path: Path) -> None:
    config = SMALL | {"resolutions": (8, 12), "min_width": 0.6}
    table = measured_table(layout(), parse(SupernetConfig, config, "test"), lambda m, x: float(x.numel()) ** 0.5)
    costs = table(layout().of(Subnet(8, (0.8,) * 5)))
    start = int(costs[0]) - 50
    table.save(tmp_path / "table.json")
    constraint = {"resource": "latency", "unit": 1, "start": start, "stop": start + 100, "step": 20}
    method = PSSNet(
        parse(
            PSSNetConfig,
            config | {"constraints": (constraint,), "pool_size": 2, "latency_table": str(tmp_path / "table.json")},
            "t",
        )
    )
    model = method.compress(ctx)
    for name, point in list(model.points.items())[1:-1]:
        assert name.startswith("us") and abs(point["cost"]["latency"] - int(name[2:])) <= 10
        assert model.within(point["cost"]["latency"], "latency") in model.points


def test_one_training_serves_budgets_of_several_resources(ctx: Context, tmp_path: Path) -> None:
    config = SMALL | {"resolutions": (8, 12), "min_width": 0.6}
    table = measured_table(layout(), parse(SupernetConfig, config, "test"), lambda m, x: float(x.numel()) ** 0.5)
    table.save(tmp_path / "table.json")
    start = int(table(layout().of(Subnet(8, (0.8,) * 5)))[0]) - 50
    both = (*SMALL["constraints"], {"resource": "latency", "unit": 1, "start": start, "stop": start + 100, "step": 20})
    config |= {"constraints": both, "pool_size": 2, "latency_table": str(tmp_path / "table.json")}
    model = PSSNet(parse(PSSNetConfig, config, "t")).compress(ctx)
    assert {name.rstrip("0123456789") for name in model.points} == {"min", "m", "us", "max"}
    for name, point in model.points.items():
        assert point["cost"].keys() == {"macs", "latency"}
        if name.startswith("us"):
            assert abs(point["cost"]["latency"] - int(name[2:])) <= 10
        elif name[1:].isdigit():
            assert abs(point["cost"]["macs"] / 1e3 - int(name[1:])) <= 20


# ---- errors


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        ({"start": 5, "stop": 5, "step": 1}, "start must be less than stop"),
        ({"start": 5, "stop": 10, "step": 0}, "step"),
        ({"resource": "energy", "start": 5, "stop": 10, "step": 1}, "resource"),
    ],
)
def test_bad_constraints_are_refused(constraint: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(SupernetConfig, {"constraints": (constraint,)}, "config.yaml")


def test_unreachable_targets_and_a_missing_table_are_named(ctx: Context) -> None:
    far = SMALL | {"constraints": ({"start": 100, "stop": 200, "step": 10},)}
    with pytest.raises(UserError, match="no sampled structure has any of the targets"):
        prepare(ctx, parse(SupernetConfig, far, "test"))
    latency = SMALL | {"constraints": ({"resource": "latency", "start": 100, "stop": 200, "step": 10},)}
    with pytest.raises(UserError, match="a constraint on latency needs a table"):
        prepare(ctx, parse(SupernetConfig, latency, "test"))
    own = sampler()
    with pytest.raises(UserError, match="was sampled; remove the target"):
        own.draw(own.budgets[0]._replace(target=700))
    with pytest.raises(UserError, match="resolutions must be"):
        parse(SupernetConfig, SMALL | {"resolutions": (8, 15)}, "test")


@pytest.mark.parametrize("setting", ["gpu_v1", "gpu_v2"])
def test_budgets_of_a_gpu_need_a_table_of_one(setting: str) -> None:
    with pytest.raises(UserError, match=r"microseconds of a GPU.* no structure would meet them; name a file"):
        registry.resolve(ROOT, "pss_net", setting, "paper")
    declared = registry.declaration(ROOT, "pss_net").settings[setting].hyperparameters
    assert parse(PSSNetConfig, declared | {"latency_table": "data/gpu.json"}, "test").timed_devices == {"gpu"}
    both = {"resource": "latency", "unit": 1, "start": 1000, "stop": 2000, "step": 10}
    with pytest.raises(UserError, match="must be of one device"):
        parse(PSSNetConfig, {"constraints": (*declared["constraints"], both), "latency_table": "data/gpu.json"}, "test")


@pytest.mark.parametrize("setting", ["flops_v1", "flops_v2", "cpu_v1", "cpu_v2"])
def test_what_the_paper_scale_runs_is_accepted(setting: str) -> None:
    assert setting in {run.setting for run in Plan(ROOT, "paper", ["pss_net"]).runs}
    assert isinstance(registry.resolve(ROOT, "pss_net", setting, "paper"), PSSNetConfig)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist; correct latency_table"),
        ("{}", "is no latency table"),
        ("[[1, 2]]", "is no latency table"),
        ("not JSON", "is no latency table .*at its start"),
        ('[[["stem", 8, 1, 8, 1, 3, 2, 1], -4]]', "greater than or equal to 0 at 0.1"),
    ],
)
def test_a_file_that_is_no_table_is_named(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "table.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=f"table.json .*{message}|table.json {message}"):
        LatencyTable.load(tmp_path / "table.json")


def test_a_network_without_switchable_widths_is_refused() -> None:
    with pytest.raises(UserError, match="has no switchable widths"):
        Layout(models.build("plain", in_channels=1))


# ---- the methods


@pytest.mark.parametrize("cls", [PSSNet, UniformSubnets, SeparateSubnets])
def test_one_checkpoint_has_a_network_for_every_budget(cls: type, ctx: Context, tmp_path: Path) -> None:
    extra = {"pool_size": 2} if cls is PSSNet else {"targets": (100,)} if cls is SeparateSubnets else {}
    model = cls(parse(cls.Config, SMALL | extra, "test")).compress(ctx)
    storage.save_model(model, tmp_path / "stored")
    again = storage.load_model(tmp_path / "stored")
    names = list(again.operating_points)
    assert names[0] == "min" and names[-1] == "max"
    assert set(names[1:-1]) <= {"m60", "m100", "m140"} and (cls is not SeparateSubnets or names[1:-1] == ["m100"])
    images = torch.randn(3, 1, 16, 16)
    for point in names:
        network = again.at(point)
        assert torch.allclose(network(images), model.eval().at(point)(images), atol=1e-5)
        macs = accounting.flops(network, (1, 16, 16), "macs_with_pool")
        assert macs == again.points[point]["cost"]["macs"]
        if point.startswith("m1"):
            assert abs(macs / 1e3 - int(point[1:])) <= 20
    if cls is PSSNet:
        assert {"best_structures_validation_top1", "smallest_validation_top1_shared_statistics"} <= set(ctx.records)


def test_the_same_seed_gives_the_same_bits_and_separate_networks_have_the_structures_of_the_uniform_supernet(
    ctx: Context, tmp_path: Path
) -> None:
    config = parse(UniformSubnets.Config, SMALL, "test")
    first, second = (UniformSubnets(config).compress(_in(ctx, tmp_path / n)) for n in "ab")
    assert first.points == second.points
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    separate = SeparateSubnets(parse(SeparateSubnets.Config, SMALL, "test")).compress(_in(ctx, tmp_path / "c"))
    assert separate.points == first.points


def test_a_killed_training_goes_on_with_its_pools_and_ends_with_the_same_bits(ctx: Context, tmp_path: Path) -> None:
    class Kill(Exception):
        pass

    class Killer:
        def epoch(self, number: int, epochs: int, metrics: dict[str, float]) -> None:
            if number == 1:
                raise Kill

    method = PSSNet(parse(PSSNetConfig, SMALL | {"pool_size": 2}, "test"))
    whole = method.compress(_in(ctx, tmp_path / "whole"))
    killed = _in(ctx, tmp_path / "killed")
    killed.logger = Killer()
    with pytest.raises(Kill):
        method.compress(killed)
    assert (tmp_path / "killed/checkpoints/training/latest.json").exists()
    resumed = method.compress(_in(ctx, tmp_path / "killed"))
    assert resumed.points == whole.points
    assert all(
        torch.equal(a, b) for a, b in zip(resumed.state_dict().values(), whole.state_dict().values(), strict=True)
    )


def _in(ctx: Context, folder: Path) -> Context:
    return Context(ctx.root, ctx.stage, ctx.seed, ctx.pair, ctx.dataset, folder, ctx.device)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_networks_and_blocks_of_the_paper_have_relu6(version: str) -> None:
    pair = load_scale(ROOT, "paper").pairs[f"imagenet/mobilenet_{version}_switchable"]
    with torch.device("meta"):
        network = {"architecture": pair.architecture, "arguments": pair.arguments}
        model: Switchable = models.build("switchable", network=network, points=published_ends(version))
        modules = [*model.modules(), *(m for key in model.blocks("max") for m in model.block(key)[0].modules())]
    activations = {type(m) for m in modules if type(m) in (nn.ReLU, nn.ReLU6)}
    assert activations == {nn.ReLU6}


def published_ends(version: str) -> dict[str, dict[str, object]]:
    stages = {"v1": 14, "v2": 9}[version]
    return {"max": {"label": "largest", "resolution": 224, "widths": [1.0] * stages, "cost": {}}}


def test_mobilenet_v1_of_the_other_papers_has_relu() -> None:
    with torch.device("meta"):
        other = models.build("mobilenet_v1")
    assert {type(m) for m in other.modules() if isinstance(m, nn.ReLU | nn.ReLU6)} == {nn.ReLU}
    with pytest.raises(UserError, match="activation must be one of"):
        models.build("mobilenet_v1", activation="gelu")


@pytest.mark.parametrize(("pair", "setting"), [("v1", "flops_v1"), ("v2", "flops_v2")])
def test_one_iteration_at_full_size(pair: str, setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = full_size_context(tmp_path, f"imagenet/mobilenet_{pair}_switchable", "pss_net", setting)
    monkeypatch.setattr(ctx, "validate", lambda _: {})
    declared = parse(Declaration, read_yaml(ROOT / "methods/pss_net/config.yaml"), "pss_net")
    config = declared.settings[setting].hyperparameters | {"samples": 2000, "recalibration_batches": 1}
    monkeypatch.setattr("compressbench.compression.supernet.Supernet.by_lot", lambda _: {})
    model = PSSNet(parse(PSSNetConfig, config, "test")).compress(ctx)
    assert len(model.points) == 3 and model.full_resolution == 224
    assert all(torch.isfinite(p).all() for p in model.parameters())
