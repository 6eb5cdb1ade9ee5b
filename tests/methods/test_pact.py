"""PACT: the clip point's gradient, DoReFa's weights, and the stages on a super-resolution network."""

from pathlib import Path

import pytest
import torch

from compressbench import storage
from compressbench.layers.learned_steps import PactActivation, dorefa_weight, pact_quantize
from methods.baselines.pact.method import PACT
from tests.contexts.super_resolution import make_sr_context


def test_two_bits_with_a_clip_point_of_two() -> None:
    x = torch.tensor([-1, 0.2, 0.4, 1.0, 1.7, 2, 5], requires_grad=True)
    alpha = torch.tensor(2.0, requires_grad=True)
    y = pact_quantize(x, alpha, 2)
    torch.testing.assert_close(y, torch.tensor([0, 0, 2 / 3, 4 / 3, 2, 2, 2]))
    assert torch.autograd.grad(y.sum(), x, retain_graph=True)[0].tolist() == [0, 1, 1, 1, 1, 0, 0]
    per_element = [torch.autograd.grad(y[i], alpha, retain_graph=True)[0].item() for i in range(7)]
    assert per_element == [0, 0, 0, 0, 0, 1, 1]


def test_inputs_with_a_sign_are_clipped_on_both_sides() -> None:
    x, alpha = torch.tensor([-5.0, -0.4, 0.3, 1.4, 3.0]), torch.tensor(2.0, requires_grad=True)
    y = pact_quantize(x, alpha, 2, signed=True)
    assert y.tolist() == [-2.0, 0.0, 0.0, 2.0, 2.0]
    y.sum().backward()
    assert alpha.grad.item() == 0.0


def test_dorefa_weights() -> None:
    w = torch.tensor([-0.5, -0.1, 0.1, 0.5], requires_grad=True)
    quantized = dorefa_weight(w, 2)
    torch.testing.assert_close(quantized, torch.tensor([-1, -1 / 3, 1 / 3, 1]))
    torch.testing.assert_close(dorefa_weight(w, 2, rescale=True), quantized * torch.tanh(torch.tensor(0.5)))
    quantized.sum().backward()
    assert (w.grad[1:3] > 0).all()


def test_clip_point_starts_at_ten_or_at_the_largest_input() -> None:
    x = torch.tensor([[[[-3.0, 1.0]]]])
    ten, largest = PactActivation(2), PactActivation(2, start_at=None)
    ten(x), largest(x)
    assert (ten.scalar.item(), largest.scalar.item(), largest.signed) == (10.0, 3.0, True)


def test_stages_leave_a_loadable_model_whose_clip_points_have_learned(tmp_path: Path) -> None:
    method = PACT(PACT.Config(bits=2))
    storage.save_model(method.compress(make_sr_context(tmp_path, "compress")), tmp_path / "compressed")
    tuned = method.finetune(make_sr_context(tmp_path, "finetune"), storage.load_model(tmp_path / "compressed"))
    storage.save_model(tuned, tmp_path / "tuned")
    restored = storage.load_model(tmp_path / "tuned").state_dict()
    assert all(torch.equal(restored[name], tensor) for name, tensor in tuned.state_dict().items())
    alphas = [tensor.item() for name, tensor in restored.items() if name.endswith(".scalar")]
    assert len(alphas) == 6
    assert any(alpha != 10.0 for alpha in alphas)


@pytest.mark.parametrize("bits", [1, 8])
def test_other_bit_widths_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="bits"):
        PACT.Config.model_validate({"bits": bits})
