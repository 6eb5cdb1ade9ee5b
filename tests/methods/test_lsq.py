"""LSQ: the quantizer's gradients and start, and the stages on a super-resolution network."""

from pathlib import Path

import pytest
import torch

from compressbench import storage
from compressbench.layers.learned_steps import (
    LearnedStepActivation,
    LearnedStepConv2d,
    initial_step,
    learned_step_quantize,
)
from methods.baselines.lsq.method import LSQ, parameter_groups
from tests.contexts.super_resolution import make_sr_context


@pytest.mark.parametrize(
    ("v", "quantized", "dstep", "dv"),
    [
        (-3, -2, -4, 0),
        (-0.3, -0.5, -0.4, 1),
        (0.1, 0, -0.2, 1),
        (0.26, 0.5, 0.48, 1),
        (0.6, 0.5, -0.2, 1),
        (1.6, 1.5, 3, 0),
    ],
)
def test_three_signed_bits_with_step_one_half(v: float, quantized: float, dstep: float, dv: float) -> None:
    value, step = torch.tensor(float(v), requires_grad=True), torch.tensor(0.5, requires_grad=True)
    result = learned_step_quantize(value, step, 3, signed=True)
    result.backward()
    assert (result.item(), step.grad.item(), value.grad.item()) == pytest.approx((quantized, dstep, dv), abs=1e-6)


def test_unsigned_grid_starts_at_zero() -> None:
    x = torch.tensor([-1.0, 0.2, 0.6, 9.0])
    assert learned_step_quantize(x, torch.tensor(0.5), 2, signed=False).tolist() == [0.0, 0.0, 0.5, 1.5]


def test_first_step_and_gradient_factor() -> None:
    assert initial_step(torch.full((10,), 0.8), 3, signed=True).item() == pytest.approx(0.92376, abs=1e-5)
    step = torch.tensor(0.5, requires_grad=True)
    learned_step_quantize(torch.tensor(-3.0), step, 3, True, count=1000).backward()
    assert step.grad.item() / -4 == pytest.approx(0.0182574, abs=1e-6)


def test_the_first_batch_starts_the_step_and_decides_the_sign() -> None:
    layer, x = LearnedStepActivation(2), torch.tensor([0.0, 1.0, 2.0, 3.0]).reshape(1, 1, 2, 2)
    layer(x)
    assert (layer.signed, layer.scalar.item()) == (False, pytest.approx(2 * 1.5 / 3**0.5))
    layer(-5 * x)
    assert (layer.signed, layer.scalar.item()) == (False, pytest.approx(2 * 1.5 / 3**0.5))


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
