"""Networks of quantized layers with 1xN blocks, whole in integers: what quantized layers read lies in memory as uint8 codes.

The method's own grids are used. A residual sum adds the codes of what the next layer reads, as in every int8 engine, where the
method's simulation adds what they were rounded from.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from compressbench.kernels.block_int8 import BlockInt8Conv2d
from compressbench.kernels.block_sparse import BLOCK_SIZES, INFINITY
from compressbench.kernels.codes import DepthwiseInt8Conv2d, MaxPoolCodes, Quantize
from compressbench.layers.folding import only_argument
from compressbench.layers.quantized import QuantConv2d, QuantLinear
from compressbench.layers.replaceable import LINEAR, Replaceable, equal_pair, one_of
from compressbench.pruning.blocks import encode_bsr
from compressbench.runtimes.base import Skip
from compressbench.runtimes.integer import NoIntegerForm, Rounding, has_codes, int8_weight
from compressbench.runtimes.native.fusion import ADDITIONS, Fused
from compressbench.runtimes.native.graph import IDENTITIES, Graph, shape_of
from compressbench.runtimes.native.steps import Step

SPARSE = 0.75
"""Most blocks that a layer keeps which is called block-sparse, as a share."""
ZEROS = 0.2
"""Weights of kept blocks that rounding makes zero, as a share, at most."""
OUR_CONVOLUTION = Replaceable(
    nn.Conv2d, ("in_channels", "out_channels", "groups", "bias"),
    kernel_size=equal_pair, stride=equal_pair, padding=equal_pair, dilation=one_of((1, 1)), padding_mode=one_of("zeros"),
)  # fmt: skip
MAX_POOL = Replaceable(
    nn.MaxPool2d, ("kernel_size", "stride", "padding"),
    dilation=one_of(1, (1, 1)), ceil_mode=one_of(False), return_indices=one_of(False),
)  # fmt: skip


@dataclass
class IntegerLayer:
    """A convolution or linear layer: weight = codes * step, int8 and float [channels]; its input on a grid."""

    codes: Tensor
    step: Tensor
    bias: Tensor
    grid: Rounding


def block_size(codes: Tensor) -> int:
    """The largest N whose stored blocks of codes [c_out, c_in, ...] hold no more zeros than rounding explains."""
    kept, most = codes.flatten(1) != 0, (codes != 0).sum() / (1 - ZEROS)

    def stored(n: int) -> int:
        return n * int(kept.reshape(-1, n, kept.shape[1]).any(1).sum())

    return max(n for n in BLOCK_SIZES if len(codes) % n == 0 and (n == 1 or stored(n) <= most))


def has_integer_blocks(model: nn.Module) -> bool:
    """Whether a network has quantized layers with a grid of their input, and 1xN blocks of zeros in one of their weights."""
    return any(
        _is_integer(layer) and len(layer.weight) > 1 and _is_block_sparse(layer.effective_weight().detach())
        for layer in model.modules()
        if isinstance(layer, QuantConv2d) and layer.groups == 1
    )


def take_integers(model: nn.Module) -> dict[str, IntegerLayer]:
    """Put plain layers in the place of quantized ones, in place, and return their integers by name."""
    found: dict[str, IntegerLayer] = {}
    for name, layer in list(model.named_modules()):
        if not isinstance(layer, QuantConv2d | QuantLinear) or not _is_integer(layer):
            continue
        try:
            codes, step = int8_weight(layer, torch.ones(len(layer.weight)))
            grid = Rounding(layer.input_grid())
        except NoIntegerForm as error:
            raise Skip(str(error)) from error
        bias = torch.zeros(len(codes)) if layer.bias is None else layer.bias.detach()
        found[name] = IntegerLayer(codes, step, bias, grid)
        model.set_submodule(name, _plain(layer, codes, step, bias))
    return found


def insert_codes(module: fx.GraphModule, layers: Mapping[str, IntegerLayer]) -> dict[fx.Node, Rounding]:
    """Round what integer layers read once, for all of them and for residual sums. Returns the values that are codes."""
    graph, codes = module.graph, dict[fx.Node, Rounding]()
    _erase_identities(module)
    readers: dict[tuple[fx.Node, tuple[float, float, float]], list[fx.Node]] = defaultdict(list)
    for node in graph.nodes:
        source = only_argument(node)
        if node.op == "call_module" and str(node.target) in layers and source is not None:
            readers[source, _key(layers[str(node.target)].grid)].append(node)
    grids = [source for source, _ in readers]
    for (source, _), own in readers.items():
        grid = layers[str(own[0].target)].grid
        if grids.count(source) == 1:
            own += [user for user in source.users if user not in own and _is_sum(user)]
        pool = _pool(module, source)
        whole = pool is not None and source.users.keys() <= {*own}
        inner = only_argument(source) if whole else source
        assert inner is not None
        name = f"codes_{len(codes)}"
        module.add_submodule(name, grid)
        with graph.inserting_after(inner):
            rounded = graph.call_module(name, (inner,))
        codes[rounded] = grid
        for reader in [source] if whole else own:
            reader.replace_input_with(inner, rounded)
        if whole:  # the codes of a maximum are the maximum of the codes
            codes[source] = grid
    module.recompile()
    return codes


def integer_steps(
    graph: Graph, chains: Sequence[Fused], layers: Mapping[str, IntegerLayer], codes: Mapping[fx.Node, Rounding]
) -> dict[fx.Node, Step]:
    """The steps in integers by their result; a chain absorbs the rounding of its result, in place."""
    found: dict[fx.Node, Step] = {}
    for chain in chains:
        if chain.name in layers:
            users = list(chain.last.users)
            if len(users) == 1 and users[0] in codes and isinstance(graph.module_of(users[0]), Rounding):
                chain.absorbed.append(users[0])
                chain.last = users[0]
            found[chain.last] = _convolution(chain, layers[chain.name], codes)
    absorbed = {node for chain in chains for node in chain.absorbed}
    for node in graph.operations:
        if node in absorbed:
            continue
        layer, module = layers.get(str(node.target)), graph.module_of(node)
        if layer is not None and isinstance(module, nn.Linear):
            found[node] = _linear(node, layer)
        elif node in codes:
            found[node] = _code_step(node, module, codes[node])
    ours = {*found, *(node for chain in chains if chain.name in layers for node in chain.absorbed)}
    for node in codes:
        if strange := [user for user in node.users if user not in ours]:
            raise Skip(f"{strange[0].name} reads what lies in memory as codes only")
    return found


def _is_integer(layer: Any) -> bool:
    """Whether the kernels know the layer and its input has a grid of at most 8 bits."""
    if not has_codes(layer) or getattr(layer, "inputs", "none") == "none" or layer.input_bits > 8:
        return False
    if isinstance(layer, nn.Linear):
        return LINEAR.fits(layer)
    depthwise = layer.groups == layer.in_channels == layer.out_channels
    inside = OUR_CONVOLUTION.fits(layer) and int(layer.padding[0]) < layer.kernel_size[0]
    return inside and (layer.groups == 1 or depthwise)


def _is_block_sparse(weight: Tensor) -> bool:
    n = block_size(weight)
    stored = (weight.flatten(1) != 0).reshape(-1, n, weight[0].numel()).any(1)
    return n > 1 and float(stored.float().mean()) <= SPARSE


def _plain(layer: QuantConv2d | QuantLinear, codes: Tensor, step: Tensor, bias: Tensor) -> nn.Module:
    plain: nn.Conv2d | nn.Linear
    if isinstance(layer, nn.Linear):
        plain = nn.Linear(layer.in_features, layer.out_features)
    else:
        geometry: Any = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
        plain = nn.Conv2d(layer.in_channels, layer.out_channels, *geometry)
    plain.weight = nn.Parameter(codes * step.reshape(-1, *[1] * (codes.dim() - 1)), requires_grad=False)
    plain.bias = nn.Parameter(bias, requires_grad=False)
    return plain.eval()


def _erase_identities(module: fx.GraphModule) -> None:
    for node in list(module.graph.nodes):
        called = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        source = only_argument(node)
        if called is not None and source is not None and any(form.covers(called) for form in IDENTITIES):
            node.replace_all_uses_with(source)
            module.graph.erase_node(node)


def _key(grid: Rounding) -> tuple[float, float, float]:
    return float(grid.scale), float(grid.zero_point), float(grid.high)


def _is_sum(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target in ADDITIONS and len(node.args) == 2 and not node.kwargs


def _pool(module: fx.GraphModule, node: fx.Node) -> nn.MaxPool2d | None:
    called = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    source = only_argument(node)
    alone = source is not None and len(source.users) == 1
    return called if isinstance(called, nn.MaxPool2d) and MAX_POOL.covers(called) and alone else None


def _requantization(
    layer: IntegerLayer, grid: Rounding | None, clip: tuple[float, float], residual: Rounding | None, adds: bool
) -> dict[str, Any]:
    """scale, bias, clip and residual_scale of a layer whose result lies on a grid, or stays fp32."""
    out_scale, out_zero, high = (1.0, 0.0, 0.0) if grid is None else _key(grid)
    step, bias = layer.step.double() * float(layer.grid.scale) / out_scale, layer.bias.double() / out_scale + out_zero
    residual_scale = 1 / out_scale
    if residual is not None:
        residual_scale *= float(residual.scale)
        bias = bias - residual_scale * float(residual.zero_point)
    if grid is not None:
        bounds = (round(bound / out_scale) + out_zero if math.isfinite(bound) else bound for bound in clip)
        low, top = (min(max(bound, 0.0), high) for bound in bounds)
        clip = int(low), int(top)
    settings: dict[str, Any] = {"scale": step.float(), "bias": bias.float(), "clip": clip}
    return settings | ({"residual_scale": residual_scale} if adds else {})


def _convolution(chain: Fused, layer: IntegerLayer, codes: Mapping[fx.Node, Rounding]) -> Step:
    nodes = [node for node in (chain.source, chain.residual) if node is not None]
    grid, residual = codes.get(chain.last), codes.get(chain.residual) if chain.residual is not None else None
    size, conv = shape_of(chain.source)[1:], chain.layer
    assert isinstance(conv, nn.Conv2d)
    settings = _requantization(layer, grid, chain.clip or (-INFINITY, INFINITY), residual, chain.residual is not None)
    settings |= {"stride": conv.stride[0], "padding": int(conv.padding[0]), "zero_point": int(layer.grid.zero_point)}
    if conv.groups > 1:
        if grid is None or chain.residual is not None:
            raise Skip(f"{chain.name} is a depthwise convolution whose result no quantized layer reads")
        depthwise = DepthwiseInt8Conv2d(layer.codes, input_size=size, **settings)
        return Step(chain.last, nodes, lambda values: depthwise(*values), depthwise, "int8 depthwise", fresh=True)
    n = block_size(layer.codes)
    blocks = encode_bsr(layer.codes, _stored(layer.codes, n), n)
    settings["dtype"] = torch.float32 if grid is None else torch.uint8
    settings["residual_dtype"] = torch.float32 if residual is None else torch.uint8
    own = BlockInt8Conv2d(blocks, input_size=size, kernel=conv.kernel_size[0], **settings).tune()
    return Step(chain.last, nodes, lambda values: own(*values), own, f"int8 1x{n}", fresh=True)


def _linear(node: fx.Node, layer: IntegerLayer) -> Step:
    source, codes = only_argument(node), layer.codes[:, :, None, None]
    assert source is not None
    n = block_size(codes)
    settings = _requantization(layer, None, (-INFINITY, INFINITY), None, False)
    own = BlockInt8Conv2d(
        encode_bsr(codes, _stored(codes, n), n), input_size=(codes.shape[1], 1, 1), dtype=torch.float32,
        zero_point=int(layer.grid.zero_point), **settings,
    )  # fmt: skip
    return Step(
        node, [source], lambda values: own(values[0][..., None, None]).flatten(1), own, f"int8 1x{n}", fresh=True
    )


def _code_step(node: fx.Node, module: nn.Module | None, grid: Rounding) -> Step:
    """What makes codes beside the layers: rounding, and a maximum of codes."""
    source = only_argument(node)
    assert source is not None
    shape = shape_of(source)[1:]
    own: Quantize | MaxPoolCodes
    if isinstance(module, nn.MaxPool2d):
        side, stride, padding = (_side(value) for value in (module.kernel_size, module.stride, module.padding))
        own = MaxPoolCodes(shape, side, stride, padding)
    else:
        own = Quantize(shape, float(grid.scale), int(grid.zero_point), int(grid.high))
    return Step(node, [source], lambda values: own(*values), own, fresh=True)


def _stored(codes: Tensor, n: int) -> Tensor:
    blocks = (codes != 0).reshape(-1, n, *codes.shape[1:]).any(1)
    return blocks.repeat_interleave(n, 0)


def _side(value: Any) -> int:
    return int(value if isinstance(value, int) else value[0])
