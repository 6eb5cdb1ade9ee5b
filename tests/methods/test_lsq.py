"""LSQ: the quantizer's gradients and start, and the stages on a super-resolution network."""

from pathlib import Path

import torch

from compressbench import storage
from compressbench.layers.learned_steps import (
    LearnedStepConv2d,
)
from methods.baselines.lsq.method import LSQ, parameter_groups
from tests.contexts.super_resolution import make_sr_context


def test_stages_leave_a_loadable_model_whose_steps_have_learned(tmp_path: Path) -> None:
    method = LSQ(LSQ.Config(bits=2))
    storage.save_model(method.compress(make_sr_context(tmp_path, "compress")), tmp_path / "compressed")
    before, loaded = storage.load_model(tmp_path / "compressed"), storage.load_model(tmp_path / "compressed")
    tuned = method.finetune(make_sr_context(tmp_path, "finetune"), loaded)
    steps = [name for name in tuned.state_dict() if name.endswith((".scalar", ".step"))]
    assert len(steps) == 6 + 4
    assert all(tuned.state_dict()[name] != before.state_dict()[name] for name in steps)
    storage.save_model(tuned, tmp_path / "tuned")
    restored = storage.load_model(tmp_path / "tuned").state_dict()
    assert all(torch.equal(restored[name], tensor) for name, tensor in tuned.state_dict().items())


def test_steps_are_not_decayed(tmp_path: Path) -> None:
    model = LSQ(LSQ.Config(bits=2)).compress(make_sr_context(tmp_path, "compress"))
    rest, weight_steps, input_steps = parameter_groups(model, 1.0, 7.0)
    assert (len(weight_steps["params"]), weight_steps["weight_decay"]) == (4, 0)
    assert (len(input_steps["params"]), input_steps["weight_decay"], input_steps["lr"]) == (6, 0, 7)
    assert "weight_decay" not in rest
    assert all(
        isinstance(model.get_submodule(f"blocks.{i}.conv{j}"), LearnedStepConv2d) for i in (0, 1) for j in (1, 2)
    )
