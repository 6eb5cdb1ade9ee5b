"""Networks in which every layer has a dead, a constant and a tiny filter go through every stage like any other."""

import json
from pathlib import Path

import pytest
import torch

from compressbench import storage
from compressbench.layers.packing import pack_weight
from tests.conftest import copy_tree, run_module

pytestmark = pytest.mark.pipeline

DENSE = (
    "smoke/digits/resnet8/intraq/w4a4/seed0",
    "smoke/digits/resnet8/minmax/w4a4/seed0",
    "smoke/digits/resnet8/udfc/p30_w6/seed0",
    "smoke/digits/resnet8/df_mpc/w2_6/seed0",
    "smoke/photographs/edsr_mini/ddtb/w2a2/seed0",
    "smoke/photographs/edsr_mini/pact/w2a2/seed0",
)
BINARY = ("smoke/digits/binary_resnet8/xnor/w1a1/seed0", "smoke/digits/binary_resnet8/siman/w1a1/seed0")

SCRIPT = """
import sys, traceback
from pathlib import Path
import torch
from torch import nn
from compressbench import models, storage
from compressbench.layers.binary import binary_layers
from compressbench.plan import Plan, parse_run
from compressbench.stages.stages import run_stage

root = Path.cwd()
for name in sys.argv[1:]:
    run = parse_run(name)
    plan = Plan(root, run.scale, [run.method], [run.seed])
    pair, declared = plan.pair(run), plan.declarations[run.method]
    if declared.starts_from == "dense":
        torch.manual_seed(0)
        dense = models.build(pair.architecture, **pair.arguments)
        with torch.no_grad():
            for layer in dense.modules():
                if isinstance(layer, nn.Conv2d) and len(layer.weight) > 3:
                    layer.weight[0], layer.weight[1] = 0, 0.01
                    layer.weight[2] *= 1e-9
        storage.save_model(dense, root / run.folder("pretrain"))
    for stage in declared.stages:
        run_stage(root, run, stage)
    if declared.starts_from != "dense":
        folder = root / run.folder(plan.final_stage(run))
        model = storage.load_model(folder)
        for layer in binary_layers(model).values():
            layer.alpha.data[:3] = torch.tensor([0.0, 1e-30, 1e-36])
        storage.save_model(model, folder)
    for stage in ("evaluate", "latency"):
        run_stage(root, run, stage)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    root = copy_tree(tmp_path_factory.mktemp("dead"), data_root)
    (root / "stages.py").write_text(SCRIPT, encoding="utf-8")
    process = run_module(root, *DENSE, *BINARY, module="stages")
    assert process.returncode == 0, process.stderr[-3000:]
    return root


@pytest.mark.parametrize("run", [*DENSE, *BINARY])
def test_it_is_evaluated_timed_and_packed(root: Path, run: str) -> None:
    folder = root / "results" / run
    quality = json.loads((folder / "evaluate/metrics.json").read_text(encoding="utf-8"))["quality"]
    assert all(torch.tensor(value).isfinite() for value in quality.values() if isinstance(value, float))
    latency = json.loads((folder / "latency/latency.json").read_text(encoding="utf-8"))
    assert {"torch_eager", "onnxruntime"} <= {entry["runtime"] for entry in latency["measurements"]}

    final = folder / "finetune" if (folder / "finetune").exists() else folder / "compress"
    model, packed = storage.load_model(final), storage.load_tensors(folder / "evaluate/packed.safetensors")
    names = [name.removesuffix(".packed") for name in packed if name.endswith(".packed")]
    assert names
    for name in names:
        layer = model.get_submodule(name)
        stored = pack_weight(layer)
        weight = layer.effective_weight().detach()
        for part in ("packed", "low", "step"):
            assert torch.equal(packed[f"{name}.{part}"], getattr(stored, part)), f"{name}.{part}"
        rounding = 1e-5 * (weight.abs() + stored.step)  # of every channel by its own step
        assert ((stored.weight() - weight).abs() <= rounding).all(), name
