"""The binary convolutions of a network on the bit-packed kernel."""

from typing import Any

from torch import Tensor, nn

from compressbench.kernels.packed_binary import PackedBinaryConv2d
from compressbench.layers.binary import BinaryLayer
from compressbench.layers.deployment import foldable_pairs
from compressbench.layers.folding import scale_and_shift
from compressbench.layers.replaceable import Replaceable, equal_pair, one_of

BINARY_CONVOLUTION = Replaceable(
    nn.Conv2d, ("in_channels", "out_channels", "bias"),
    kernel_size=equal_pair, stride=equal_pair, padding=equal_pair, dilation=one_of((1, 1)), groups=one_of(1),
    padding_mode=one_of("zeros"),
)  # fmt: skip


class PackedLayer(nn.Module):
    """A binary convolution, and the batch norm after it, on the kernel; planned for the first input that it gets."""

    def __init__(self, layer: Any, norm: Any) -> None:
        super().__init__()
        self._form, self._stride, self._padding = layer.binary_form(), layer.stride[0], layer.padding[0]
        if norm is not None:
            scale, bias = scale_and_shift(norm, self._form.bias)
            self._form = self._form._replace(scale=self._form.scale * scale, bias=bias)
        self._planned: PackedBinaryConv2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[1, C, H, W] -> the same in channels_last."""
        if self._planned is None:
            bits, scale, bias, encoding, _ = self._form
            geometry: Any = {"stride": self._stride, "padding": self._padding, "encoding": encoding}
            self._planned = PackedBinaryConv2d(bits, scale, bias, x.shape[2:], **geometry)
        if self._form.centred:
            x = x - x.mean((1, 2, 3), keepdim=True)
        return self._planned(x.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2)


def pack_binary(model: nn.Module) -> nn.Module:
    """Put the kernel in the place of every binary convolution whose geometry it knows, in place."""
    norms = dict(foldable_pairs(model))
    for name, layer in list(model.named_modules()):
        if BINARY_CONVOLUTION.fits(layer) and isinstance(layer, BinaryLayer):
            norm = norms.get(name)
            model.set_submodule(name, PackedLayer(layer, norm and model.get_submodule(norm)))
            if norm is not None:
                model.set_submodule(norm, nn.Identity())
    return model
