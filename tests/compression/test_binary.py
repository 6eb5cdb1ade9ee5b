"""Sign convolutions: values, gradients, and one bit a weight."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressbench import accounting, models, storage
from compressbench.compression.binary import SignConv2d, sign_ste
from compressbench.compression.packing import pack_weight


def test_the_sign_has_no_zero_and_its_gradient_is_clipped() -> None:
    x = torch.tensor([-1.5, -1.0, -0.2, 0.0, 0.2, 1.0, 1.5], requires_grad=True)
    y = sign_ste(x)
    y.backward(torch.arange(1.0, 8.0))
    assert y.tolist() == [-1, -1, -1, -1, 1, 1, 1]
    assert x.grad is not None
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 6, 0]


@pytest.mark.parametrize("scaling", ["none", "mean"])
def test_it_convolves_signs_and_packs_them_in_one_bit(scaling: str) -> None:
    layer = SignConv2d.rebuild(nn.Conv2d(5, 6, 3, padding=1), {"scaling": scaling})
    x = torch.randn(2, 5, 7, 7)
    scale = layer.weight.abs().mean((1, 2, 3)) if scaling == "mean" else torch.ones(6)
    plain = F.conv2d(torch.sign(x), torch.sign(layer.weight), padding=1)
    torch.testing.assert_close(layer(x), plain * scale[:, None, None] + layer.bias[:, None, None])
    stored = pack_weight(layer)
    torch.testing.assert_close(stored.weight(), torch.sign(layer.weight) * scale[:, None, None, None])
    assert stored.packed.numel() == accounting.layer_bytes(layer) == -(-5 * 6 * 9 // 8)


def test_it_is_stored_by_its_kind(tmp_path) -> None:
    model = models.build("plain")
    name = next(n for n, m in model.named_modules() if type(m) is nn.Conv2d)
    model.set_submodule(name, SignConv2d.rebuild(model.get_submodule(name), {"scaling": "mean"}))
    storage.save_model(model, tmp_path)
    x = torch.randn(1, 1, 28, 28)
    assert torch.equal(storage.load_model(tmp_path)(x), model.eval()(x))
