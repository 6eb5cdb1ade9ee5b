"""PSS-Net: the structure space, the pools, the sandwich rule, and one checkpoint for several budgets."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from compressbench import accounting, models, storage
from compressbench.config import Declaration, discovery, load_scale, parse, read_yaml
from compressbench.errors import UserError
from compressbench.method import Context, loading
from compressbench.models.subnets import Subnet, as_tensors
from compressbench.models.switchable import Switchable
from compressbench.plan import Plan
from compressbench.supernet.config import SupernetConfig
from compressbench.supernet.latency_table import measured_table
from compressbench.supernet.training import prepare
from methods.baselines.separate_subnets.method import SeparateSubnets
from methods.baselines.uniform_subnets.method import UniformSubnets
from methods.pss_net.counts import distinct_networks, network_at
from methods.pss_net.method import Prioritized, PSSNet, PSSNetConfig
from methods.pss_net.pools import Pools, annealed, priorities
from tests.conftest import ROOT
from tests.contexts import full_size_context
from tests.contexts.supernet import SMALL, layout, supernet_context


@pytest.fixture
def ctx(tmp_path: Path, data_root: Path) -> Context:
    return supernet_context(data_root, tmp_path / "compress")


# ---- the space of structures


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


def test_the_spaces_have_as_many_networks_as_counted() -> None:
    assert distinct_networks(layout("mobilenet_v1")) == 4_151_844_106_645_950
    assert distinct_networks(layout("mobilenet_v2")) == 41_184


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


# ---- latency tables


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


@pytest.mark.parametrize("setting", ["gpu_v1", "gpu_v2"])
def test_budgets_of_a_gpu_need_a_table_of_one(setting: str) -> None:
    with pytest.raises(UserError, match=r"microseconds of a GPU.* no structure would meet them; name a file"):
        loading.resolve(ROOT, "pss_net", setting, "paper")
    declared = discovery.declaration(ROOT, "pss_net").settings[setting].hyperparameters
    assert parse(PSSNetConfig, declared | {"latency_table": "data/gpu.json"}, "test").timed_devices == {"gpu"}
    both = {"resource": "latency", "unit": 1, "start": 1000, "stop": 2000, "step": 10}
    with pytest.raises(UserError, match="must be of one device"):
        parse(PSSNetConfig, {"constraints": (*declared["constraints"], both), "latency_table": "data/gpu.json"}, "test")


@pytest.mark.parametrize("setting", ["flops_v1", "flops_v2", "cpu_v1", "cpu_v2"])
def test_what_the_paper_scale_runs_is_accepted(setting: str) -> None:
    assert setting in {run.setting for run in Plan(ROOT, "paper", ["pss_net"]).runs}
    assert isinstance(loading.resolve(ROOT, "pss_net", setting, "paper"), PSSNetConfig)


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


@pytest.mark.parametrize(("pair", "setting"), [("v1", "flops_v1"), ("v2", "flops_v2")])
def test_one_iteration_at_full_size(pair: str, setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = full_size_context(tmp_path, f"imagenet/mobilenet_{pair}_switchable", "pss_net", setting)
    monkeypatch.setattr(ctx, "validate", lambda _: {})
    declared = parse(Declaration, read_yaml(ROOT / "methods/pss_net/config.yaml"), "pss_net")
    config = declared.settings[setting].hyperparameters | {"samples": 2000, "recalibration_batches": 1}
    monkeypatch.setattr("compressbench.supernet.training.Supernet.random_structures", lambda _: {})
    model = PSSNet(parse(PSSNetConfig, config, "test")).compress(ctx)
    assert len(model.points) == 3 and model.full_resolution == 224
    assert all(torch.isfinite(p).all() for p in model.parameters())
