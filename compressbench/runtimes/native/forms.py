"""The forms in which one layer can be computed, on our kernels and in PyTorch, and the choice of the fastest."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressbench.kernels import native
from compressbench.kernels.autotune import Call, fastest
from compressbench.kernels.average_pool import AveragePool2d
from compressbench.kernels.block_sparse import BLOCK_SIZES, INFINITY, BlockSparseConv2d
from compressbench.kernels.depthwise import KERNELS, STRIDES, DepthwiseConv2d
from compressbench.kernels.native import Isa
from compressbench.kernels.onednn import packed_convolution
from compressbench.kernels.pooling import GlobalMean, MaxPool2d
from compressbench.layers.replaceable import LINEAR, SIZES, Replaceable, equal_pair, numbers, one_number, one_of
from compressbench.models.resnet import PadShortcut
from compressbench.pruning.blocks import encode_bsr

Own = AveragePool2d | BlockSparseConv2d | DepthwiseConv2d | GlobalMean | MaxPool2d
Form = Callable[..., Tensor]
"""(input, [what is added to the output]) -> output, all NCHW."""
BlockMask = tuple[Tensor, int]
"""(mask, N) of a layer with 1xN blocks."""


def square(size: Any) -> bool:
    """The form takes windows of equal sides."""
    return isinstance(size, int) or equal_pair(size)


OUR_CONVOLUTION = Replaceable(
    nn.Conv2d, ("in_channels", "out_channels", "groups", "bias"),
    kernel_size=equal_pair, stride=equal_pair, padding=equal_pair, dilation=one_of((1, 1)), padding_mode=one_of("zeros"),
)  # fmt: skip
PACKED_CONVOLUTION = Replaceable(nn.Conv2d, SIZES, padding=numbers, padding_mode=one_of("zeros"))
MATRIX_PRODUCT = Replaceable(
    nn.Conv2d, ("in_channels", "out_channels", "bias", "dilation", "padding_mode"),
    kernel_size=one_of((1, 1)), stride=one_of((1, 1)), padding=one_of((0, 0)), groups=one_of(1),
)  # fmt: skip
GLOBAL_MEAN = Replaceable(nn.AdaptiveAvgPool2d, output_size=one_of(1, (1, 1)))
AVERAGE_POOL = Replaceable(
    nn.AvgPool2d, ("ceil_mode", "count_include_pad"), padding=one_of(0, (0, 0)), divisor_override=one_of(None),
    kernel_size=one_number, stride=one_number,
)  # fmt: skip
PAD_SHORTCUT = Replaceable(PadShortcut, ("inputs", "outputs", "stride"))
MAX_POOL = Replaceable(
    nn.MaxPool2d, ("kernel_size", "stride", "padding", "dilation", "ceil_mode"), return_indices=one_of(False)
)
OUR_MAX_POOL = Replaceable(
    nn.MaxPool2d, kernel_size=square, stride=square, padding=square, dilation=one_of(1, (1, 1)), ceil_mode=one_of(False),
    return_indices=one_of(False),
)  # fmt: skip


def fastest_convolution(
    layer: nn.Conv2d,
    mask: BlockMask | None,
    values: Sequence[Tensor],
    output_shape: torch.Size,
    clip: tuple[float, float],
) -> tuple[str, Form]:
    """(name, form) of the convolution of `values` (an input, and a residual if there is one), clipped."""
    x, *residual = values
    forms = dict(dense_forms(layer, x, clip))
    own = own_forms(layer, mask, x, clip)
    fits = not (residual and "depthwise" in own)
    forms |= own if fits else {}
    trials = {name: _as_run(form, values, torch.empty(output_shape)) for name, form in forms.items()}
    name = fastest(trials, hopeless=1.5)
    return name, forms[name]


def own_forms(
    layer: nn.Conv2d, mask: BlockMask | None, x: Tensor, clip: tuple[float, float]
) -> dict[str, BlockSparseConv2d | DepthwiseConv2d]:
    """The layer on our kernels, by name; empty where they do not know its geometry. A depthwise one takes no residual.

    A layer without a mask runs on the same kernel with all its blocks, which is often faster than the dense libraries, too.
    """
    kernel, stride, padding = layer.kernel_size, layer.stride, layer.padding
    if not OUR_CONVOLUTION.covers(layer) or not 0 <= int(padding[0]) < kernel[0]:
        return {}
    geometry: Any = {"stride": stride[0], "padding": padding[0], "clip": clip}
    if layer.groups > 1:
        depthwise = layer.groups == layer.in_channels == layer.out_channels
        if not depthwise or kernel[0] not in KERNELS or stride[0] not in STRIDES:
            return {}
        return {"depthwise": DepthwiseConv2d(layer.weight, layer.bias, x.shape[1:], **geometry)}
    whole = torch.ones_like(layer.weight, dtype=torch.bool), _block_size(layer.out_channels)
    kept, n = mask or whole
    if n not in BLOCK_SIZES or layer.out_channels % n:
        return {}
    name = f"block-sparse 1x{n}" if mask else "dense blocks"
    blocks = encode_bsr(layer.weight, kept, n)
    return {name: BlockSparseConv2d(blocks, layer.bias, x.shape[1:], kernel=kernel[0], **geometry).tune()}


def dense_forms(layer: nn.Conv2d, x: Tensor, clip: tuple[float, float]) -> Iterable[tuple[str, Form]]:
    """The ways in which torch convolves x: as it is, packed for oneDNN, as a matrix product."""
    bounds = None if clip == (-INFINITY, INFINITY) else clip

    def finish(y: Tensor, residual: Tensor | None = None) -> Tensor:
        if residual is not None:
            y.add_(residual)
        if bounds is not None:
            y.clamp_(*bounds) if bounds[1] < INFINITY else y.relu_()
        return y

    yield "dense", lambda x, *residual: finish(layer(x), *residual)
    if PACKED_CONVOLUTION.covers(layer):
        geometry: Any = (layer.stride, layer.padding, layer.dilation, layer.groups)
        packed = packed_convolution(layer.weight, layer.bias, x.shape, *geometry)
        if packed is not None:
            yield "dense packed", lambda x, *residual: finish(packed(x).contiguous(), *residual)
    if MATRIX_PRODUCT.covers(layer) and len(x) == 1:
        matrix = layer.weight.detach().flatten(1)
        column = torch.zeros(len(matrix), 1) if layer.bias is None else layer.bias.detach()[:, None]

        def product(x: Tensor, *residual: Tensor) -> Tensor:
            y = torch.addmm(column, matrix, x.flatten(2)[0])
            return finish(y.view(1, -1, *x.shape[2:]), *residual)

        yield "dense GEMM", product


def own_operation(module: nn.Module, shape: torch.Size) -> Own | None:
    """A layer other than a convolution on our kernels, for inputs of this shape; None where PyTorch is as good."""
    if GLOBAL_MEAN.covers(module) and len(shape) == 4:
        return GlobalMean(shape[1:])
    if isinstance(module, nn.MaxPool2d) and OUR_MAX_POOL.covers(module) and len(shape) == 4:
        return MaxPool2d(shape[1:], *(_side(value) for value in (module.kernel_size, module.stride, module.padding)))
    if isinstance(module, PadShortcut) and PAD_SHORTCUT.covers(module):  # a 1x1 convolution that copies
        weight = F.pad(torch.eye(shape[1]), (0, 0, module.front, module.back))[:, :, None, None]
        return BlockSparseConv2d(encode_bsr(weight, weight > 0, 1), None, shape[1:], stride=module.stride)
    if isinstance(module, nn.AvgPool2d) and AVERAGE_POOL.covers(module) and len(shape) == 4:
        kernel, stride = (one for one in (module.kernel_size, module.stride) if isinstance(one, int))
        return AveragePool2d(shape[1:], kernel, stride, module.ceil_mode)
    if isinstance(module, nn.Linear) and LINEAR.covers(module) and len(shape) == 2 and shape[0] == 1:
        weight = module.weight[:, :, None, None]
        blocks = encode_bsr(weight, torch.ones_like(weight, dtype=torch.bool), _block_size(len(weight)))
        own, x = BlockSparseConv2d(blocks, module.bias, (shape[1], 1, 1)), torch.randn(*shape, 1, 1)
        forms: dict[BlockSparseConv2d | None, Call] = {
            own: _as_run(own, [x], torch.empty(1, len(weight))),
            None: functools.partial(module, x.flatten(1)),
        }
        return fastest(forms)
    return None


def fastest_pool(pool: nn.Module, shape: torch.Size) -> nn.Module:
    """PyTorch vectorises max pooling in channels_last only: on large images that is worth two changes of layout.

    Any other module than a max pooling of images is returned as it is.
    """
    if not MAX_POOL.covers(pool) or len(shape) != 4:
        return pool
    x = torch.randn(shape)
    return fastest({module: functools.partial(module, x) for module in (pool, _ChannelsLast(pool))})


class _ChannelsLast(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._module = module

    def forward(self, x: Tensor) -> Tensor:
        y = self._module(x.contiguous(memory_format=torch.channels_last))
        return y.contiguous()  # type: ignore[no-any-return]


def _as_run(form: Form, values: Sequence[Tensor], out: Tensor) -> Call:
    """What a trial times: the form as a forward pass calls it."""
    if isinstance(form, BlockSparseConv2d | DepthwiseConv2d) and form.isa is not Isa.TORCH:
        return native.program([form.step(values[0], out, *values[1:])])
    return functools.partial(form, *values)


def _side(size: int | tuple[int, ...]) -> int:
    """Of a square window."""
    return size if isinstance(size, int) else int(size[0])


def _block_size(channels: int) -> int:
    return next(n for n in (16, 8, 4, 2, 1) if channels % n == 0)
