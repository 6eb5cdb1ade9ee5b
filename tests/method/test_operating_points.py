"""One stored model, several operating points: evaluation and latency measure each, a switch reads no file."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from compressbench import models, storage
from compressbench.accounting import account, with_mean_macs
from compressbench.method.operating_points import Adaptive, Blockwise, ImageDependent
from compressbench.models import Classifier, ModelSpec
from compressbench.plan import Plan, Run
from compressbench.stages import stages
from compressbench.timing import latency
from compressbench.tracking import final_metrics
from tests.conftest import ROOT


class Narrow(nn.Sequential):
    """Reads the first pixels only."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)

    def forward(self, images: Tensor) -> Tensor:
        return self[0](images.flatten(1)[:, : self[0].in_features])


class Undecided(Narrow):
    """Spends half of its arithmetic on average."""

    def mean_macs(self, batches: Iterable[Tensor]) -> float:
        assert {images.shape[1:] for images in batches} == {(1, 16, 16)}
        return 40.0


class TwoBudgets(Classifier):
    """A classifier of the first 8 or of all 256 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.pool, self.classifier = nn.Flatten(), nn.Identity(), nn.Linear(256, 10)
        self.operating_points = {"small": "8 pixels", "all": "256 pixels", "half": "it depends"}

    def at(self, point: str) -> nn.Module:
        pixels = {"small": 8, "all": 256, "half": 8}[point]
        layer = nn.Linear(pixels, 10)
        layer.weight = nn.Parameter(self.classifier.weight[:, :pixels])
        layer.bias = self.classifier.bias
        kind = Undecided if point == "half" else Narrow
        return kind(layer).eval()


@pytest.fixture(scope="module", autouse=True)
def known() -> Iterator[None]:
    """The architecture, for this module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.ARCHITECTURES, "two_budgets", TwoBudgets)
        yield


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> SimpleNamespace:
    """A project whose run of `dense` has left such a model, and its stages evaluate and latency."""
    tmp_path = tmp_path_factory.mktemp("project")
    for name in ("config", "methods", "data", "data.dvc"):
        (tmp_path / name).symlink_to(ROOT / name)
    run = Run("smoke", "digits", "resnet_mini", "dense", "checkpoint", 0)
    torch.manual_seed(0)
    model = models.build("two_budgets")
    assert model.spec == ModelSpec("two_budgets", {})
    storage.save_model(model, tmp_path / run.folder("compress"))
    plan = Plan(tmp_path, "smoke", ["dense"])
    results = {}
    for stage, work in (("evaluate", stages._evaluate), ("latency", stages._latency)):
        folder = tmp_path / run.folder(stage)
        work(tmp_path, plan.job(run, stage), SimpleNamespace(folder=folder, history=None))
        (folder / "run.json").write_text('{"wall_seconds": 1, "peak_memory_mb": 1}', encoding="utf-8")
        results[stage] = folder
    return SimpleNamespace(model=model.eval(), **results)


def read(folder: Path) -> dict:
    return json.loads(next(folder.glob("[ml]*.json")).read_text(encoding="utf-8"))


def test_only_a_model_that_offers_points_has_them() -> None:
    assert isinstance(TwoBudgets(), Adaptive)
    assert not isinstance(models.build("plain", in_channels=1), Adaptive)
    assert isinstance(TwoBudgets().at("half"), ImageDependent) and not isinstance(
        TwoBudgets().at("all"), ImageDependent
    )


def test_a_model_without_points_keeps_its_files(tmp_path: Path, data_root: Path) -> None:
    for name in ("config", "methods", "data", "data.dvc"):
        (tmp_path / name).symlink_to(ROOT / name)
    run = Run("smoke", "digits", "resnet_mini", "dense", "checkpoint", 0)
    plan = Plan(tmp_path, "smoke", ["dense"])
    pair = plan.pair(run)
    storage.save_model(models.build(pair.architecture, **pair.arguments), tmp_path / run.folder("compress"))
    for stage, work in (("evaluate", stages._evaluate), ("latency", stages._latency)):
        work(tmp_path, plan.job(run, stage), SimpleNamespace(folder=tmp_path / run.folder(stage), history=None))
    costs = {"params", "weights", "kept_weights", "macs", "dense_macs", "bit_operations", "stored_bytes"}
    assert read(tmp_path / run.folder("evaluate")).keys() == {"quality"} | costs
    content = {"batch", "input_shape", "machine", "simulated", "measurements", "skipped"}
    assert read(tmp_path / run.folder("latency")).keys() == content


def test_every_point_has_its_quality_and_its_costs(evaluated: SimpleNamespace) -> None:
    metrics = read(evaluated.evaluate)
    points = metrics["points"]
    assert list(points) == ["small", "all", "half"] and points["small"]["label"] == "8 pixels"
    assert (points["small"]["macs"], points["all"]["macs"]) == (80, 2560)
    assert points["small"]["params"] == 90 and metrics["stored_bytes"] == 4 * 2570
    assert all(0 <= own["quality"]["top1"] <= 100 for own in points.values())


def test_arithmetic_that_depends_on_the_image_is_the_mean_over_the_test_images(evaluated: SimpleNamespace) -> None:
    points = read(evaluated.evaluate)["points"]
    assert points["half"]["macs"] == 40 and points["half"]["bit_operations"] == points["small"]["bit_operations"] / 2
    whole = account(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), (1, 2, 2))
    assert with_mean_macs(whole, 6.0).macs == 6 and with_mean_macs(whole, 6.0).bit_operations == 6 * 32 * 32


def test_every_point_is_timed_beside_the_dense_network_and_so_is_the_switch(evaluated: SimpleNamespace) -> None:
    content = read(evaluated.latency)
    assert list(content["points"]) == ["small", "all", "half"]
    for own in content["points"].values():
        assert {m["runtime"] for m in own["measurements"]} >= {"torch_eager"}
        assert all(m["dense_ms"]["median"] > 0 and m["compressed_ms"]["median"] > 0 for m in own["measurements"])
    switch, reload = (content["switching"][name]["median"] for name in ("switch_ms", "reload_ms"))
    assert 0 < switch < reload


def test_a_switch_asks_for_random_points_and_loads_nothing() -> None:
    asked: list[str] = []
    loads: list[int] = []

    class Recorder(nn.Module):
        operating_points = MappingProxyType({"a": "", "b": "", "c": ""})

        def at(self, point: str) -> nn.Module:
            asked.append(point)
            return self

    def load() -> Recorder:
        loads.append(len(asked))
        return Recorder()

    times = latency.switching(Recorder(), load, rounds=30, warmup=2)
    assert set(asked) == {"a", "b", "c"} and 30 <= len(loads) < len(asked)
    assert set(times) == {"switch_ms", "reload_ms"} and times["switch_ms"]["minimum"] >= 0


def test_every_distinct_block_is_timed_once_and_sums_are_ranked_against_the_networks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timed: list[int] = []

    class Chain(TwoBudgets):
        def blocks(self, point: str) -> list[int]:
            return {"small": [1, 1], "all": [1, 50, 50], "half": [50]}[point]

        def block(self, name: int) -> tuple[nn.Module, Tensor]:
            return nn.Identity(), torch.zeros(name)

    def microseconds(block: nn.Module, example: Tensor, rounds: int, warmup: int) -> float:
        timed.append(len(example))
        return 1e3 * len(example)

    monkeypatch.setattr(latency, "microseconds", microseconds)
    assert isinstance(Chain(), Blockwise) and not isinstance(TwoBudgets(), Blockwise)
    found = latency.block_sums(Chain(), {"small": 0.1, "all": 0.9, "half": 0.5})
    assert timed == [1, 50] and found["sums_ms"] == {"small": 2.0, "all": 101.0, "half": 50.0}
    assert found["rank_correlation"] == pytest.approx(1)
    assert latency.block_sums(Chain(), {"small": 0.9, "all": 0.5, "half": 0.1})["rank_correlation"] == pytest.approx(
        -0.5
    )


def test_the_tracker_gets_the_numbers_of_every_point(evaluated: SimpleNamespace) -> None:
    values = final_metrics(evaluated.evaluate)
    assert values["small.macs"] == 80 and "small.top1" in values and values["stored_bytes"] == 4 * 2570
    times = final_metrics(evaluated.latency)
    assert "switch_ms" in times and "all.torch_eager.1.ms" in times


def test_throughput_is_measured_per_image_on_full_batches_of_the_same_images() -> None:
    seen: dict[str, list[int]] = {"dense": [], "other": []}

    class Counting(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, images: Tensor) -> Tensor:
            seen[self.name].append(len(images))
            now[0] += (2.0 if self.name == "dense" else 1.0) * len(images)
            return images

    now = [0.0]
    networks = {name: Counting(name) for name in seen}
    found = latency.throughput(networks, torch.zeros(250, 1, 2, 2), 60, rounds=3, warmup=1, clock=lambda: now[0])
    assert found["other"]["images"] == 180 and set(seen["other"][-9:]) == {60}
    assert found["other"]["compressed_ms"]["median"] == 1000 and found["other"]["dense_ms"]["median"] == 2000
    assert found["other"]["speedup"] == {"median": 2, "low": 2, "high": 2} and found["dense"]["speedup"]["median"] == 1
    with pytest.raises(ValueError, match="do not fill a batch of 60"):
        latency.throughput(networks, torch.zeros(59, 1, 2, 2), 60)


def test_a_network_that_depends_on_the_image_is_timed_on_images_in_eager_mode() -> None:
    dense, network = Narrow(nn.Linear(256, 10)).eval(), Undecided(nn.Linear(8, 10)).eval()
    runtimes = ("torch_eager", "torch_compiled", "onnxruntime")
    found = latency.measure(
        dense, network, (1, 16, 16), runtimes, rounds=2, warmup=1, images=torch.zeros(40, 1, 16, 16)
    )
    (row,) = found["measurements"]
    assert (row["runtime"], row["threads"], row["batch"], row["images"]) == ("torch_eager", 1, 1, 32)
    assert row["rounds"] == 1  # of 32 images each, for the two of one image
    assert {s["runtime"] for s in found["skipped"]} == {"torch_compiled", "onnxruntime"}
    with pytest.raises(ValueError, match="give some"):
        latency.measure(dense, network, (1, 16, 16), runtimes)
