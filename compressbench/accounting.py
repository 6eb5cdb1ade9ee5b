"""What a network costs: parameters, multiply-accumulates (MACs), bit-operations, stored bytes.

Nothing here knows a method. A compressed layer tells what it saves by attributes that are read with their defaults:
`mask` (bool, shape of the weight, True = kept), `block` (N: stored as blocks of N output rows x 1 column),
`weight_bits` and `input_bits` (32). MACs count convolutions, linear layers, and what a layer without weights multiplies by a
method `product_macs(inputs, output)` of its own (attention); the FLOPs that papers print are named conventions in CONVENTIONS.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

WeightLayer = nn.Conv2d | nn.Linear
WEIGHT_LAYERS = (nn.Conv2d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.PReLU, nn.Hardswish, nn.Hardsigmoid)
INDEX_BITS = 32

Format = Literal["dense", "csr", "bsr", "best"]


@dataclass(frozen=True)
class LayerCount:
    """The counts of one layer for one image (batch 1)."""

    name: str
    kind: Literal["conv", "linear", "product", "norm", "activation", "global_pool"]
    inputs: int
    """Elements read."""
    outputs: int
    """Elements written."""
    weights: int = 0
    kept_weights: int = 0
    positions: int = 0
    """How often each weight is used: the output pixels of a convolution, 1 for a linear layer on a vector."""
    channel_pairs: int = 0
    """Connected pairs of an input and an output channel."""
    products: int = 0
    """Multiply-accumulates of activations with activations."""
    has_bias: bool = False
    weight_bits: int = 32
    input_bits: int = 32

    @property
    def dense_macs(self) -> int:
        """Multiply-accumulates of the unmasked layer."""
        return self.weights * self.positions + self.products

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the kept weights."""
        return self.kept_weights * self.positions + self.products


@dataclass(frozen=True)
class Account:
    """The costs of a network for one image."""

    params: int
    weights: int
    kept_weights: int
    macs: int
    dense_macs: int
    bit_operations: int
    stored_bytes: int


@dataclass(frozen=True)
class Convention:
    """A way of turning layers into "FLOPs": operations per MAC, per element and so on. Max pooling is never counted."""

    description: str
    conv_mac: float = 1
    linear_mac: float = 1
    binary_mac: float = 1
    """Times that of a convolution or linear layer, where weights and inputs have one bit."""
    conv_bias: float = 0
    linear_bias: float = 0
    """Per output element of a layer with bias."""
    unbiased_channel_pair: float = 0
    """Per pair of channels of a layer without bias."""
    norm: float = 0
    """Per element."""
    activation: float = 0
    """Per element."""
    global_pool_input: float = 0
    global_pool_output: float = 0

    def count(self, layer: LayerCount) -> float:
        """Operations of one layer, its kept weights only."""
        if layer.kind == "norm":
            return self.norm * layer.outputs
        if layer.kind == "activation":
            return self.activation * layer.outputs
        if layer.kind == "global_pool":
            return self.global_pool_input * layer.inputs + self.global_pool_output * layer.outputs
        is_conv = layer.kind == "conv"
        macs = layer.macs * (self.conv_mac if is_conv else self.linear_mac)
        if layer.weight_bits == layer.input_bits == 1:
            macs *= self.binary_mac
        if layer.has_bias:
            return macs + layer.outputs * (self.conv_bias if is_conv else self.linear_bias)
        return macs + layer.channel_pairs * self.unbiased_channel_pair


_WITH_BN = Convention(
    "the counter of the filter-pruning papers (HRank, CLR-RNF, DCFF): MACs and biases of convolutions, two per "
    "input of a linear layer (its bias free), two per normalised element, window + 1 per globally pooled output",
    linear_mac=2,
    conv_bias=1,
    norm=2,
    global_pool_input=1,
    global_pool_output=1,
)

CONVENTIONS: dict[str, Convention] = {
    "macs": Convention("multiply-accumulates of convolutions, linear layers and attention"),
    "macs_with_bias": Convention(
        "the same plus one addition per output of a layer with bias", conv_bias=1, linear_bias=1
    ),
    "macs_with_pool": Convention("the same as macs plus one per element that is globally pooled", global_pool_input=1),
    "flops_2x": Convention("two operations per multiply-accumulate", conv_mac=2, linear_mac=2),
    "binary_ops": Convention(
        "the OPs of binary networks: multiply-accumulates, of which 64 with one-bit weights and inputs count as one",
        binary_mac=1 / 64,
    ),
    "conv_only": Convention("multiply-accumulates of the convolutions", linear_mac=0),
    "with_bn": _WITH_BN,
    "with_bn_window_pool": replace(
        _WITH_BN, description="with_bn where the pool has a fixed window: one per output", global_pool_input=0
    ),
    "with_bn_no_pool": replace(
        _WITH_BN, description="with_bn without the pool", global_pool_input=0, global_pool_output=0
    ),
    "with_bn_imagenet": replace(
        _WITH_BN,
        description="with_bn_window_pool with one per input of a linear layer, as DCFF counts ImageNet networks",
        linear_mac=1,
        global_pool_input=0,
    ),
    "with_bn_logged": replace(
        _WITH_BN,
        description="with_bn with one per input of a linear layer and four per normalised element: CLR-RNF's logs",
        linear_mac=1,
        norm=4,
    ),
    "zoo": Convention(
        "half the operations as the imgclsmob model zoo counts them: a MAC is two operations less one per channel "
        "pair without bias, a normalised element four, an activation one, an average pool one per element read",
        unbiased_channel_pair=-0.5,
        norm=2,
        activation=0.5,
        global_pool_input=0.5,
    ),
    "with_norms": Convention("multiply-accumulates and five per normalised element: CF-ViT", norm=5),
}


def weight_layers(model: nn.Module) -> Iterator[tuple[str, WeightLayer]]:
    """(name, module) of every convolution and linear layer."""
    return ((name, layer) for name, layer in model.named_modules() if isinstance(layer, WEIGHT_LAYERS))


def kept_count(layer: WeightLayer) -> int:
    """Weights that the mask keeps; zeros that happen to be kept count, as they are stored."""
    mask = getattr(layer, "mask", None)
    return layer.weight.numel() if mask is None else int(torch.count_nonzero(mask))


def layer_table(model: nn.Module, input_shape: Sequence[int]) -> list[LayerCount]:
    """One row per use of a counted layer, in forward order, for one image of `input_shape` [..., c, H, W].

    Runs the model once in evaluation mode on the device of its parameters; on "meta" nothing is computed.
    """
    rows: list[LayerCount] = []
    names = {layer: name for name, layer in model.named_modules()}

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        rows.append(_count(names[layer], layer, inputs, output))

    counted = (*WEIGHT_LAYERS, *NORMS, *ACTIVATIONS, nn.AdaptiveAvgPool2d)
    handles = [
        layer.register_forward_hook(count)
        for layer in names
        if isinstance(layer, counted) or hasattr(layer, "product_macs")
    ]
    modes = {layer: layer.training for layer in names}
    parameter = next(model.parameters(), torch.zeros(()))  # bicubic enlargement has none
    try:
        model.eval()
        with torch.no_grad():
            model(torch.zeros(1, *input_shape[-3:], device=parameter.device, dtype=parameter.dtype))
    finally:
        for handle in handles:
            handle.remove()
        for layer, training in modes.items():
            layer.training = training
    return rows


def _count(name: str, layer: nn.Module, x: tuple[Tensor, ...], y: Tensor) -> LayerCount:
    inputs, outputs = x[0].numel(), y.numel()
    if isinstance(layer, WEIGHT_LAYERS):
        is_conv = isinstance(layer, nn.Conv2d)
        return LayerCount(
            name,
            "conv" if is_conv else "linear",
            inputs,
            outputs,
            weights=layer.weight.numel(),
            kept_weights=kept_count(layer),
            positions=outputs // layer.weight.shape[0],
            channel_pairs=layer.weight.shape[0] * layer.weight.shape[1],
            has_bias=layer.bias is not None,
            weight_bits=getattr(layer, "weight_bits", 32),
            input_bits=getattr(layer, "input_bits", 32),
        )
    if hasattr(layer, "product_macs"):
        return LayerCount(name, "product", inputs, outputs, products=layer.product_macs(x, y))  # type: ignore[operator]
    if isinstance(layer, NORMS):
        return LayerCount(name, "norm", inputs, outputs)
    return LayerCount(name, "activation" if isinstance(layer, ACTIVATIONS) else "global_pool", inputs, outputs)


def flops(model: nn.Module, input_shape: Sequence[int], convention: str = "macs") -> int:
    """The "FLOPs" of one image under a named convention of CONVENTIONS."""
    if convention not in CONVENTIONS:
        raise ValueError(f"unknown FLOPs convention {convention!r}: choose one of {', '.join(CONVENTIONS)}")
    return round(sum(CONVENTIONS[convention].count(layer) for layer in layer_table(model, input_shape)))


def account(model: nn.Module, input_shape: Sequence[int]) -> Account:
    """All costs of a network for one image of `input_shape` [..., c, H, W]; a leading batch size is ignored.

    `stored_bytes` takes each layer's smallest format.
    """
    rows = [row for row in layer_table(model, input_shape) if row.kind in ("conv", "linear", "product")]
    return Account(
        params=sum(parameter.numel() for parameter in model.parameters()),
        weights=sum(layer.weight.numel() for _, layer in weight_layers(model)),
        kept_weights=sum(kept_count(layer) for _, layer in weight_layers(model)),
        macs=sum(row.macs for row in rows),
        dense_macs=sum(row.dense_macs for row in rows),
        bit_operations=sum(row.macs * row.weight_bits * row.input_bits for row in rows),
        stored_bytes=stored_bytes(model),
    )


def with_mean_macs(costs: Account, macs: float) -> Account:
    """The costs of a network that spends `macs` multiply-accumulates on an image on average."""
    return replace(costs, macs=round(macs), bit_operations=round(costs.bit_operations * macs / costs.macs))


def macs_per_pixel(model: nn.Module) -> int:
    """Kept MACs per input pixel of a super-resolution network (pixels of the low-resolution image)."""
    height, width = 8, 8
    return account(model, (3, height, width)).macs // (height * width)


# ---- stored bytes


def dense_bytes(layer: WeightLayer) -> int:
    """Every weight, packed at `weight_bits`."""
    return _packed_bytes(layer.weight.numel(), layer)


def csr_bytes(layer: WeightLayer) -> int:
    """Kept weights with a column index each, and one pointer per output row and end."""
    kept = kept_count(layer)
    return _packed_bytes(kept, layer) + _index_bytes(kept + layer.weight.shape[0] + 1)


def bsr_bytes(layer: WeightLayer, block: int) -> int:
    """Blocks of `block` output rows x 1 column of the flattened weight [c_out, c_in k k], with an index each.

    One pointer per block row and end, unless all block rows hold equally many: then their number says where each begins.
    """
    rows = layer.weight.shape[0]
    if rows % block:
        raise ValueError(f"{rows} output channels cannot be stored in blocks of {block}")
    mask = getattr(layer, "mask", None)
    if mask is None:
        mask = torch.ones_like(layer.weight, dtype=torch.bool)
    counts = mask.reshape(rows // block, block, -1).any(dim=1).sum(dim=1)
    blocks, uniform = int(counts.sum()), bool((counts == counts[0]).all())
    return _packed_bytes(blocks * block, layer) + _index_bytes(blocks + (0 if uniform else rows // block + 1))


def layer_bytes(layer: WeightLayer, form: Format = "best") -> int:
    """Bytes of a layer's weight. Without a mask it is dense in every format; "bsr" without `block` means "csr"."""
    if getattr(layer, "mask", None) is None:
        return dense_bytes(layer)
    block = getattr(layer, "block", None)
    forms = {"dense": dense_bytes(layer), "csr": csr_bytes(layer)}
    if block is not None and layer.weight.shape[0] % block == 0:
        forms["bsr"] = bsr_bytes(layer, block)
    if form == "best":
        return min(forms.values())
    return forms["csr"] if form == "bsr" and block is None else forms[form]


def stored_bytes(model: nn.Module, form: Format = "best", rest: bool = True) -> int:
    """Bytes of all weights in the given format, plus 32 bits for each other parameter if `rest`.

    The rest is biases, normalisation scales and shifts, slopes; running statistics are not counted, as in the papers.
    """
    layers = [layer for _, layer in weight_layers(model)]
    weights = {id(layer.weight) for layer in layers}
    others = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in weights)
    return sum(layer_bytes(layer, form) for layer in layers) + (4 * others if rest else 0)


def _packed_bytes(count: int, layer: WeightLayer) -> int:
    return math.ceil(count * getattr(layer, "weight_bits", 32) / 8)


def _index_bytes(count: int) -> int:
    return count * INDEX_BITS // 8
