"""Which operations run as one: a convolution, and the residual sum and the activation that follow it."""

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compressbench.kernels.block_sparse import INFINITY
from compressbench.layers.folding import only_argument, scale_and_shift
from compressbench.layers.replaceable import BATCH_NORM, CONVOLUTION, Replaceable, one_of
from compressbench.runtimes.native.binary import PackedLayer
from compressbench.runtimes.native.graph import Graph, kind_of, shape_of

HARDTANH = ("inplace", "min_value", "max_value")  # the last two are old names that set the first two
CLIPS: dict[Any, tuple[float, float]] = {F.relu: (0, INFINITY), F.relu6: (0, 6), torch.relu: (0, INFINITY)}
CLIP_MODULES = {
    Replaceable(nn.ReLU, ("inplace",)): (0.0, INFINITY),
    Replaceable(nn.ReLU6, ("inplace",), min_val=one_of(0), max_val=one_of(6)): (0.0, 6.0),
    Replaceable(nn.Hardtanh, HARDTANH, min_val=one_of(-1), max_val=one_of(1)): (-1.0, 1.0),
}
PRELU = Replaceable(nn.PReLU, ("num_parameters", "init"))
ADDITIONS = (operator.add, operator.iadd, torch.add)


@dataclass
class Fused:
    """A convolution with what follows it: a residual sum, a clip. It runs in the place of `last`.

    Of binary convolutions only:
        norm: (scale, shift) of the batch norm before it; an activation between, which leaves signs alone, is dropped.
        slope: [channels] of a PReLU in the place of the clip.
    """

    name: str
    layer: nn.Conv2d | PackedLayer
    source: fx.Node
    last: fx.Node
    absorbed: list[fx.Node]
    residual: fx.Node | None = None
    clip: tuple[float, float] | None = None
    norm: tuple[Tensor, Tensor] | None = None
    slope: Tensor | None = None


def fuse(graph: Graph) -> list[Fused]:
    """Every convolution with what it absorbs; an operation is part of one of them at most."""
    chains: list[Fused] = []
    taken: set[fx.Node] = set()
    for node in graph.nodes:
        layer, source = graph.module_of(node), only_argument(node)
        known = isinstance(layer, PackedLayer) or (isinstance(layer, nn.Conv2d) and CONVOLUTION.covers(layer))
        if not isinstance(layer, nn.Conv2d | PackedLayer) or not known or source is None or len(shape_of(node)) != 4:
            continue
        chain = Fused(str(node.target), layer, graph.resolve(source), node, [node])
        if isinstance(layer, PackedLayer) and layer.reads_signs:
            _absorb_norm(graph, chain, source, taken)
        _absorb(graph, chain, taken)
        taken.update(chain.absorbed)
        chains.append(chain)
    return chains


def _absorb_norm(graph: Graph, chain: Fused, source: fx.Node, taken: set[fx.Node]) -> None:
    """A batch norm that only this binary convolution reads, also through activations that leave signs alone."""
    found: list[fx.Node] = []
    at: fx.Node | None = source
    while at is not None and len(at.users) == 1 and at not in taken:
        found.append(at)
        module, before = graph.module_of(at), only_argument(at)
        if module is not None and BATCH_NORM.covers(module) and before is not None:
            if not graph.changed_between(before, chain.last, found):
                chain.norm, chain.source = scale_and_shift(module, None), graph.resolve(before)
                chain.absorbed.extend(found)
            return
        clip, slope = _clip(graph, at), _slope(graph, at)
        keeps_signs = (clip is not None and clip[0] <= 0 < clip[1]) or (slope is not None and bool((slope >= 0).all()))
        at = before if keeps_signs or at in graph.identities else None


def _absorb(graph: Graph, chain: Fused, taken: set[fx.Node]) -> None:
    """Follow the convolution through identities, one sum and one clip, as long as it has one reader."""
    first = at = chain.last
    while chain.clip is None and chain.slope is None and len(at.users) == 1:
        at = next(iter(at.users))
        if at in taken or graph.changed_between(first, at, chain.absorbed):
            return
        if (clip := _clip(graph, at)) is not None:
            chain.clip = clip
        elif isinstance(chain.layer, PackedLayer) and (slope := _slope(graph, at)) is not None:
            chain.slope = slope
        elif chain.residual is None and (residual := _added(graph, chain, at)) is not None:
            chain.residual = residual
        elif at not in graph.identities:
            return
        chain.absorbed.append(at)
        if at not in graph.identities:
            chain.last = at


def _clip(graph: Graph, node: fx.Node) -> tuple[float, float] | None:
    """(low, high) of an operation that does nothing but clip."""
    module = graph.module_of(node)
    if module is not None:
        found = (clip for form, clip in CLIP_MODULES.items() if form.covers(module) and only_argument(node))
        return next(found, None)
    known = node.op == "call_function" and len(node.args) == 1 and node.kwargs.keys() <= {"inplace"}
    return CLIPS.get(node.target) if known else None


def _slope(graph: Graph, node: fx.Node) -> Tensor | None:
    """[channels] of an operation that is a PReLU."""
    module = graph.module_of(node)
    if module is None or not PRELU.covers(module) or not only_argument(node):
        return None
    return module.weight.detach().expand(shape_of(node)[1])


def _added(graph: Graph, chain: Fused, at: fx.Node) -> fx.Node | None:
    """What an operation adds to the result of a chain, if it does nothing else and both have one shape and type."""
    if at.op != "call_function" or at.target not in ADDITIONS or at.kwargs or len(at.args) != 2:
        return None
    others = [arg for arg in at.args if not (isinstance(arg, fx.Node) and graph.resolve(arg) is chain.last)]
    if len(others) != 1 or not isinstance(others[0], fx.Node):
        return None
    alike = len({kind_of(node) for node in (chain.last, others[0], at)}) == 1
    return graph.resolve(others[0]) if alike else None
