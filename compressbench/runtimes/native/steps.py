"""The steps of a forward pass: each operation, or convolution with what it absorbed, in its fastest form."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from compressbench.kernels import native
from compressbench.kernels.block_int8 import BlockInt8Conv2d
from compressbench.kernels.block_sparse import INFINITY, BlockSparseConv2d
from compressbench.kernels.codes import DepthwiseInt8Conv2d, MaxPoolCodes, Quantize
from compressbench.kernels.depthwise import DepthwiseConv2d
from compressbench.kernels.native import Isa
from compressbench.layers.folding import only_argument
from compressbench.runtimes.native.binary import BinaryStep, PackedLayer, hand_over_bits
from compressbench.runtimes.native.forms import BlockMask, Own, fastest_convolution, fastest_pool, own_operation
from compressbench.runtimes.native.fusion import Fused
from compressbench.runtimes.native.graph import Graph, shape_of

OfCodes = BlockInt8Conv2d | DepthwiseInt8Conv2d | MaxPoolCodes | Quantize


@dataclass
class Step:
    """Computes the value of `node` from the values of `inputs`.

    planned: the layer on our kernels, which reads and writes at fixed addresses.
    form, tile: how a convolution runs, for results.
    fresh: whether PyTorch's result never shares memory with an input.
    """

    node: fx.Node
    inputs: list[fx.Node]
    compute: Callable[[list[Tensor]], Any]
    planned: Own | OfCodes | BinaryStep | None = None
    form: str = ""
    tile: str = ""
    fresh: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Of the result of a planned layer."""
        return self.planned.dtype if isinstance(self.planned, OfCodes) else torch.float32


def fastest_steps(
    graph: Graph,
    chains: Sequence[Fused],
    masks: Mapping[str, BlockMask],
    known: Mapping[fx.Node, Step] | None = None,
) -> list[Step]:
    """All steps in order: these chains, and all other operations. `masks` by layer.

    known: steps that need no choice, by their result.
    """
    given = known or {}
    absorbed = {node for chain in chains for node in chain.absorbed}
    by_last = {chain.last: chain for chain in chains}
    wanted = [(node, by_last.get(node)) for node in graph.operations if node in by_last or node not in absorbed]
    steps = [
        given.get(node) or (_convolution(chain, masks.get(chain.name)) if chain else _operation(graph, node))
        for node, chain in wanted
    ]
    hand_over_bits([(step.node, step.inputs, step.planned) for step in steps], graph.output)
    return steps


def _binary(chain: Fused, layer: PackedLayer) -> Step:
    nodes = [node for node in (chain.source, chain.residual) if node is not None]
    clip = chain.clip or (-INFINITY, INFINITY)
    planned = layer.planned(shape_of(chain.source)[2:], chain.norm, chain.slope, clip)
    step = None if planned.isa is Isa.TORCH else BinaryStep(planned)
    return Step(chain.last, nodes, lambda values: planned(*values), step, "binary", fresh=True)


def _convolution(chain: Fused, mask: BlockMask | None) -> Step:
    if isinstance(chain.layer, PackedLayer):
        return _binary(chain, chain.layer)
    nodes = [node for node in (chain.source, chain.residual) if node is not None]
    values = [torch.randn(shape_of(node)) for node in nodes]
    clip = chain.clip or (-INFINITY, INFINITY)
    name, form = fastest_convolution(chain.layer, mask, values, shape_of(chain.last), clip)
    tile = form.tile if isinstance(form, BlockSparseConv2d) else ""
    planned = form if isinstance(form, BlockSparseConv2d | DepthwiseConv2d) and form.isa is not Isa.TORCH else None
    return Step(chain.last, nodes, lambda values: form(*values), planned, name, tile, fresh=True)


def _operation(graph: Graph, node: fx.Node) -> Step:
    """Any other operation: on our kernels where they know it, else as PyTorch computes it."""
    module, inputs = graph.module_of(node), [graph.resolve(n) for n in node.all_input_nodes]
    form, planned = "dense" if isinstance(module, nn.Conv2d) else "", None
    if module is not None and only_argument(node):
        shape = shape_of(inputs[0])
        planned = own_operation(module, shape) if native.is_built() else None
        module = module if planned else fastest_pool(module, shape)
    return Step(node, inputs, functools.partial(_call, node, module), planned, form)


def _call(node: fx.Node, module: nn.Module | None, values: Iterable[Tensor]) -> Any:
    """What PyTorch makes of the values of the inputs."""
    known = dict(zip(node.all_input_nodes, values, strict=True))
    args = fx.node.map_arg(node.args, known.__getitem__)
    kwargs = fx.node.map_arg(node.kwargs, known.__getitem__)
    if module is not None:
        return module(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    return node.target(*args, **kwargs)  # type: ignore[operator]
