"""Costs of a network: parameters, multiply-accumulates (MACs), bit-operations, stored bytes.

This module does not depend on methods. A compressed layer declares what it saves by attributes, read with defaults:
`mask` (bool, shape of the weight, True = kept), `block` (N: stored as blocks of N output rows x 1 column),
`weight_bits` and `input_bits` (32), `stored_bits` (of a stored weight: `weight_bits`), `weight_scale` (of a masked weight: its
steps, stored beside it). MACs count convolutions, linear
layers, and products of activations (attention), wherever a network multiplies matrices; the FLOPs that papers print are
named conventions in CONVENTIONS.

How a class of modules is counted is given in COUNTERS (`counter` registers one), or by its own method
`product_macs(inputs, output)`. Nothing is passed over: matrix products outside of such modules count as they are, and a
module with parameters that multiplies in another way is an error.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from compressbench.errors import UserError

WeightLayer = _ConvNd | nn.Linear
WEIGHT_LAYERS = (_ConvNd, nn.Linear)
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.PReLU, nn.Hardswish, nn.Hardsigmoid)
INDEX_BITS = 32

Module = TypeVar("Module", bound=nn.Module)

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


def stored_bits(layer: object) -> int:
    """Bits of each stored weight."""
    bits: int = getattr(layer, "stored_bits", getattr(layer, "weight_bits", 32))
    return bits


def kept_count(layer: WeightLayer) -> int:
    """Weights that the mask keeps; zeros that happen to be kept count, as they are stored."""
    mask = getattr(layer, "mask", None)
    return layer.weight.numel() if mask is None else int(torch.count_nonzero(mask))


Counter = Callable[[str, Any, tuple[Any, ...], Any], list[LayerCount]]
"""(name, module, inputs, output) of one call -> its rows."""
COUNTERS: dict[type[nn.Module], Counter] = {}


def counter(*kinds: type[nn.Module]) -> Callable[[Counter], Counter]:
    """Register how modules of these classes, and of those derived from them, are counted."""

    def register(count: Counter) -> Counter:
        COUNTERS.update(dict.fromkeys(kinds, count))
        return count

    return register


def counter_of(module: nn.Module) -> Counter | None:
    """How a module is counted; None where its children are, and the products between them.

    Class by class from the module's own upwards: a method `product_macs`, or what is registered.
    """
    for kind in type(module).__mro__:
        if "product_macs" in vars(kind):
            return _count_products
        if kind in COUNTERS:
            return COUNTERS[kind]
    return None


def layer_table(model: nn.Module, input_shape: Sequence[int]) -> list[LayerCount]:
    """One row per use of a counted layer, in forward order, for one image of `input_shape` [..., c, H, W].

    Runs the model once in evaluation mode on the device of its parameters; on "meta" nothing is computed. UserError names a
    module that cannot be counted.
    """
    table = _Table(model)
    modes = {layer: layer.training for layer in model.modules()}
    parameter = next(model.parameters(), torch.zeros(()))  # bicubic enlargement has none
    try:
        model.eval()
        with torch.no_grad(), table.recording():
            model(torch.zeros(1, *input_shape[-3:], device=parameter.device, dtype=parameter.dtype))
    finally:
        for layer, training in modes.items():
            layer.training = training
    return table.rows


class _Table:
    """Rows of the modules while they run, and of the matrix products that belong to none of those with a counter."""

    def __init__(self, model: nn.Module) -> None:
        self.rows: list[LayerCount] = []
        self._names = {module: name for name, module in model.named_modules()}
        self._products = FlopCounterMode(display=False, custom_mapping=_MORE_PRODUCTS)
        self._running: list[list[int]] = []  # per module that runs: [FLOPs at its start, those of its children]

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Watch every module."""
        fused = torch.backends.mha.get_fastpath_enabled()  # which would run a whole block without its modules
        torch.backends.mha.set_fastpath_enabled(False)
        handles = [module.register_forward_pre_hook(self._enter) for module in self._names]
        handles += [module.register_forward_hook(self._leave, with_kwargs=True) for module in self._names]
        try:
            with self._products:
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, _: object) -> None:
        self._running.append([self._products.get_total_flops(), 0])

    def _leave(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        start, of_children = self._running.pop()
        flops = self._products.get_total_flops() - start
        if self._running:
            self._running[-1][1] += flops
        name, count = self._names[module], counter_of(module)
        if count is not None:
            if named:
                inputs = tuple(inspect.signature(module.forward).bind(*inputs, **named).arguments.values())
            self.rows += count(name, module, inputs, output)
        elif module._parameters and not any(True for _ in module.children()):
            kind = type(module).__name__
            raise UserError(
                f"no counter knows the layer {name or 'itself'} ({kind}), which has parameters: give {kind} a method "
                "product_macs(inputs, output), or register it with compressbench.accounting.counter."
            )
        elif products := (flops - of_children) // 2:
            self.rows.append(_product(name, inputs, output, products))


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _vector_flops(matrix: Any, vector: Any, *_: Any, **__: Any) -> int:
    return 2 * math.prod(matrix)


_MORE_PRODUCTS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten.mv: _vector_flops,
    torch.ops.aten.dot: _vector_flops,
}
"""FLOPs by shapes of what PyTorch's counter does not know."""


def _elements(values: Any) -> int:
    """Of the first tensor."""
    parts = values if isinstance(values, tuple | list) else [values]
    return next((part.numel() for part in parts if isinstance(part, Tensor)), 0)


def _product(name: str, inputs: Any, output: Any, macs: int) -> LayerCount:
    return LayerCount(name, "product", _elements(inputs), _elements(output), products=macs)


def _count_products(name: str, layer: Any, inputs: tuple[Any, ...], output: Any) -> list[LayerCount]:
    macs = layer.product_macs(inputs, output)
    return [_product(name, inputs, output, macs)] if macs else []


@counter(*WEIGHT_LAYERS)
def _count_weights(name: str, layer: WeightLayer, inputs: tuple[Any, ...], output: Any) -> list[LayerCount]:
    # A transposed convolution multiplies every element that it reads, the others every one that they write.
    uses = inputs[0] if isinstance(layer, _ConvTransposeNd) else output
    return [
        LayerCount(
            name,
            "linear" if isinstance(layer, nn.Linear) else "conv",
            inputs[0].numel(),
            output.numel(),
            weights=layer.weight.numel(),
            kept_weights=kept_count(layer),
            positions=uses.numel() // layer.weight.shape[0],
            channel_pairs=layer.weight.shape[0] * layer.weight.shape[1],
            has_bias=layer.bias is not None,
            weight_bits=getattr(layer, "weight_bits", 32),
            input_bits=getattr(layer, "input_bits", 32),
        )
    ]


@counter(nn.MultiheadAttention)
def _count_attention(name: str, layer: nn.MultiheadAttention, inputs: tuple[Any, ...], output: Any) -> list[LayerCount]:
    """The projections of query, key and value, q kᵀ, the weighted sum of the values, and the projection of the result."""
    query, key, value = inputs[:3]
    width, has_bias = layer.embed_dim, layer.in_proj_bias is not None

    def projection(part: str, x: Tensor, size: int, has_bias: bool) -> LayerCount:
        weights, tokens = width * size, x.numel() // size
        sizes = {"weights": weights, "kept_weights": weights, "channel_pairs": weights, "positions": tokens}
        return LayerCount(f"{name}.{part}", "linear", x.numel(), tokens * width, has_bias=has_bias, **sizes)

    images = 1 if query.dim() == 2 else query.shape[0 if layer.batch_first else 1]
    rows, columns = (x.numel() // size // images for x, size in ((query, width), (key, layer.kdim)))
    columns += (layer.bias_k is not None) + layer.add_zero_attn
    return [
        projection("query", query, width, has_bias),
        projection("key", key, layer.kdim, has_bias),
        projection("value", value, layer.vdim, has_bias),
        _product(name, inputs, output, 2 * images * rows * columns * width),
        projection("out_proj", output[0], width, layer.out_proj.bias is not None),
    ]


@counter(*NORMS)
def _count_norm(name: str, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> list[LayerCount]:
    return [LayerCount(name, "norm", inputs[0].numel(), output.numel())]


@counter(*ACTIVATIONS)
def _count_activation(name: str, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> list[LayerCount]:
    return [LayerCount(name, "activation", inputs[0].numel(), output.numel())]


@counter(nn.AdaptiveAvgPool2d)
def _count_pool(name: str, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> list[LayerCount]:
    return [LayerCount(name, "global_pool", inputs[0].numel(), output.numel())]


def without_macs(kind: type[Module]) -> type[Module]:
    """Register a class whose parameters are looked up, compared or scaled with: by convention they cost no MACs."""
    COUNTERS[kind] = lambda name, layer, inputs, output: []
    return kind


for _kind in (nn.Embedding, nn.EmbeddingBag):
    without_macs(_kind)


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
    attention = sum(_input_weights(m) for m in model.modules() if isinstance(m, nn.MultiheadAttention))
    return Account(
        params=sum(parameter.numel() for parameter in model.parameters()),
        weights=attention + sum(layer.weight.numel() for _, layer in weight_layers(model)),
        kept_weights=attention + sum(kept_count(layer) for _, layer in weight_layers(model)),
        macs=sum(row.macs for row in rows),
        dense_macs=sum(row.dense_macs for row in rows),
        bit_operations=sum(row.macs * row.weight_bits * row.input_bits for row in rows),
        stored_bytes=stored_bytes(model),
    )


def _input_weights(layer: nn.MultiheadAttention) -> int:
    """Those that project query, key and value; the layer after them is a linear one of its own."""
    return layer.embed_dim * (layer.embed_dim + layer.kdim + layer.vdim)


def with_mean_macs(costs: Account, macs: float) -> Account:
    """The costs of a network that spends `macs` multiply-accumulates on an image on average."""
    return replace(costs, macs=round(macs), bit_operations=round(costs.bit_operations * macs / costs.macs))


def macs_per_pixel(model: nn.Module) -> int:
    """Kept MACs per input pixel of a super-resolution network (pixels of the low-resolution image)."""
    height, width = 8, 8
    return account(model, (3, height, width)).macs // (height * width)


# ---- stored bytes


def dense_bytes(layer: WeightLayer) -> int:
    """Every weight, packed at `stored_bits`."""
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
        return min(forms.values()) + _step_bytes(layer)
    return forms["csr" if form == "bsr" and block is None else form] + _step_bytes(layer)


def stored_bytes(model: nn.Module, form: Format = "best", rest: bool = True) -> int:
    """Bytes of all weights in the given format, plus 32 bits for each other parameter if `rest`.

    The rest is biases, normalisation scales and shifts, slopes; running statistics are not counted, as in the papers.
    """
    layers = [layer for _, layer in weight_layers(model)]
    weights = {id(layer.weight) for layer in layers}
    others = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in weights)
    return sum(layer_bytes(layer, form) for layer in layers) + (4 * others if rest else 0)


def _step_bytes(layer: WeightLayer) -> int:
    steps = getattr(layer, "weight_scale", None)
    return 0 if steps is None else 4 * steps.numel()


def _packed_bytes(count: int, layer: WeightLayer) -> int:
    return math.ceil(count * stored_bits(layer) / 8)


def _index_bytes(count: int) -> int:
    return count * INDEX_BITS // 8
