"""The binary convolutions of a network on the bit-packed kernel, and what they hand to each other as bits."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx, nn

from compressbench.kernels.block_sparse import INFINITY
from compressbench.kernels.native import Step as NativeStep
from compressbench.kernels.packed_binary import PackedBinaryConv2d, Signs
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
    """A binary convolution, and the batch norm after it; it is planned anew for every call, which only tells shapes."""

    def __init__(self, layer: Any, norm: Any) -> None:
        super().__init__()
        self._form, self._stride, self._padding = layer.binary_form(), layer.stride[0], layer.padding[0]
        if norm is not None:
            scale, bias = scale_and_shift(norm, self._form.bias)
            self._form = self._form._replace(scale=self._form.scale * scale, bias=bias)

    @property
    def reads_signs(self) -> bool:
        """Whether nothing is subtracted before the sign."""
        return not self._form.centred

    def planned(
        self,
        size: Sequence[int],
        norm: tuple[Tensor, Tensor] | None = None,
        slope: Tensor | None = None,
        clip: tuple[float, float] = (-INFINITY, INFINITY),
    ) -> PackedBinaryConv2d:
        """On the kernel, for images of this (height, width), with the norm before it and the activation after it."""
        bits, scale, bias, encoding, centred = self._form
        geometry: Any = {"stride": self._stride, "padding": self._padding, "encoding": encoding, "centred": centred}
        return PackedBinaryConv2d(bits, scale, bias, size, **geometry, norm=norm, slope=slope, clip=clip)

    def forward(self, x: Tensor) -> Tensor:
        """[1, C, H, W] -> [1, c_out, H', W']."""
        return self.planned(x.shape[2:])(x.contiguous())


class BinaryStep:
    """A binary convolution with the sum and the activation after it, as part of a program.

    reads_bits: the layer before, or one that reads the same, has left the signs of the input in `layer.input`.
    """

    def __init__(self, layer: PackedBinaryConv2d) -> None:
        self.layer, self.reads_bits = layer, False

    def step(self, x: Tensor, out: Tensor, residual: Tensor | None = None) -> NativeStep:
        """See `PackedBinaryConv2d.step`."""
        return self.layer.step(x, out, residual, packed=self.reads_bits)


def pack_binary(model: nn.Module) -> nn.Module:
    """Put a `PackedLayer` in the place of every binary convolution whose geometry the kernel knows, in place."""
    norms = dict(foldable_pairs(model))
    for name, layer in list(model.named_modules()):
        if BINARY_CONVOLUTION.fits(layer) and isinstance(layer, BinaryLayer):
            norm = norms.get(name)
            model.set_submodule(name, PackedLayer(layer, norm and model.get_submodule(norm)))
            if norm is not None:
                model.set_submodule(norm, nn.Identity())
    return model


def hand_over_bits(steps: Sequence[tuple[fx.Node, list[fx.Node], object]], output: fx.Node) -> None:
    """Binary layers that read what another one computes read its signs, and those that read the same share them.

    steps: (result, inputs, the layer on our kernels) in the order in which they run. What only binary layers read is not
    written but as signs.
    """
    found: dict[tuple[fx.Node, bool], Signs] = {}
    binary = {node: planned for node, _, planned in steps if isinstance(planned, BinaryStep)}
    values = {output}
    for _, inputs, planned in steps:
        if not isinstance(planned, BinaryStep):
            values.update(inputs)
            continue
        source, layer = inputs[0], planned.layer
        values.update(inputs[1:])
        if layer.norm is not None:
            values.add(source)
            continue
        before = binary.get(source)
        if before is not None and not layer.centred:
            before.layer.signs = before.layer.signs or layer.input
            found[source, False] = before.layer.signs
        planned.reads_bits = (source, layer.centred) in found
        layer.input = found.setdefault((source, layer.centred), layer.input)
        if not planned.reads_bits:
            values.add(source)
    for node, planned in binary.items():
        planned.layer.writes = node in values
