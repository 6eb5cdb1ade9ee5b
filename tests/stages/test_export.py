"""A finished run becomes a file with its pre-processing beside it."""

import json
from collections.abc import Iterator
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import nn

from compressbench import models, storage
from compressbench.data import load
from compressbench.errors import UserError
from compressbench.files import write_json
from compressbench.layers.masked import masked, masked_layers
from compressbench.models import Classifier, Network
from compressbench.plan import Plan, Run, provenance
from compressbench.stages.export import export_run
from tests.conftest import ROOT, Command
from tests.method.test_operating_points import TwoBudgets


@pytest.fixture
def root(tmp_path: Path, data_root: Path) -> Path:
    for name in ("config", "methods", "data", "data.dvc"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def finished(root: Path, pair: str = "digits/resnet_mini", model: Network | None = None) -> tuple[Run, Network]:
    """A run of `dense` that has left `model`, by default one with masks."""
    run = Run("smoke", *pair.split("/"), "dense", "checkpoint", 0)
    plan = Plan(root, "smoke", ["dense"])
    job = plan.job(run, "compress")
    if model is None:
        torch.manual_seed(0)
        model = masked(models.build(job.workload.architecture, **job.workload.arguments))
        for layer in masked_layers(model).values():
            layer.mask.copy_(torch.rand_like(layer.weight) > 0.5)
    storage.save_model(model, root / job.folder)
    write_json(root / job.folder / provenance.FILE, {"configuration_hash": job.digest})
    return run, model.eval()


def test_the_file_computes_what_the_model_does_from_pixels(root: Path) -> None:
    run, model = finished(root)
    (sentence,) = export_run(root, run, "onnx")
    folder = root / "results/smoke/digits/resnet_mini/dense/checkpoint/seed0/export"
    assert str(folder / "model.onnx") in sentence and "the same class for 100 % of the images" in sentence
    about = json.loads((folder / "model.onnx.json").read_text(encoding="utf-8"))
    inside = {name: torch.tensor(values) for name, values in about["inside"].items()}
    test = load("digits", root / "data").test
    pixels = test.images[:5] * inside["std"] + inside["mean"]
    assert pixels.min() >= 0 and pixels.max() <= 1
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    outputs = torch.from_numpy(session.run(None, {"input": pixels.numpy()})[0])
    torch.testing.assert_close(outputs, model(test.images[:5]), rtol=1e-3, atol=1e-4)
    assert about["input"] == {"type": "float32", "layout": "NCHW", "channels": "grey", "range": [0, 1], "size": 16}
    assert (about["run"], about["arithmetic"], about["checked"]["agreement"]) == (run.name, "fp32", 100)
    assert about["before"]["resize"] == 16


def test_the_file_may_lie_elsewhere(root: Path) -> None:
    run, _ = finished(root)
    list(export_run(root, run, "torch", root / "elsewhere/net.pt2"))
    assert {path.name for path in (root / "elsewhere").iterdir()} == {"net.pt2", "net.pt2.json"}


@pytest.fixture
def two_budgets() -> Iterator[Network]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.ARCHITECTURES, "two_budgets", TwoBudgets)
        yield models.build("two_budgets")


def test_every_operating_point_has_a_file_unless_it_depends_on_the_image(root: Path, two_budgets: Network) -> None:
    run, _ = finished(root, model=two_budgets)
    sentences = list(export_run(root, run, "onnx", root / "out/net.onnx"))
    assert {path.name for path in (root / "out").glob("*.onnx")} == {"net_small.onnx", "net_all.onnx"}
    (left_out,) = [sentence for sentence in sentences if "is left out" in sentence]
    assert "net_half.onnx" in left_out and "depends on the image" in left_out


def test_super_resolution_reads_raw_pixels_of_any_size(root: Path) -> None:
    run, _ = finished(root, "photographs/edsr_mini")
    (sentence,) = export_run(root, run, "onnx", root / "sr.onnx")
    assert "the same class" not in sentence
    about = json.loads((root / "sr.onnx.json").read_text(encoding="utf-8"))
    assert (about["input"]["range"], about["input"]["size"], about["inside"], about["before"]) == (
        [0, 255],
        None,
        {},
        {},
    )
    session = onnxruntime.InferenceSession(str(root / "sr.onnx"))
    assert session.run(None, {"input": torch.zeros(1, 3, 10, 20).numpy()})[0].shape == (1, 3, 20, 40)


def test_a_pair_of_another_scale_is_named(root: Path) -> None:
    with pytest.raises(UserError, match=r"digits/vgg is not a pair of config/smoke\.yaml; known: digits/resnet_mini, "):
        list(export_run(root, Run("smoke", "digits", "vgg", "dense", "checkpoint", 0), "onnx"))


def test_a_result_of_another_configuration_is_not_exported(root: Path) -> None:
    run, _ = finished(root)
    write_json(root / run.folder("compress") / provenance.FILE, {"configuration_hash": "another"})
    with pytest.raises(UserError, match=r"has no result, or one of another configuration; run it first: snakemake"):
        list(export_run(root, run, "onnx"))


def test_a_network_without_a_graph_leaves_no_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Strange(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = nn.Linear(256, 10)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.classifier(torch.special.bessel_j0(images).flatten(1))

    monkeypatch.setitem(models.ARCHITECTURES, "strange", Strange)
    run, _ = finished(root, model=models.build("strange"))
    with pytest.raises(
        UserError, match=r"dense/checkpoint/seed0 cannot be exported: no ONNX graph: .*; try another format"
    ):
        list(export_run(root, run, "onnx", root / "net.onnx"))
    assert not (root / "net.onnx").exists()


def test_the_command_knows_its_formats(root: Path, cli: Command) -> None:
    run, _ = finished(root)
    refused = cli(root, "export", run.name, "--format", "tflite", env={"PYTHONPATH": str(ROOT)})
    assert refused.returncode == 2
    assert "error: --format tflite is unknown; known: onnx, torch." in refused.stderr
    done = cli(root, "export", run.name, "--out", "net.onnx", env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0 and done.stdout.startswith("net.onnx (fp32, "), done.stderr
