"""Where the values of a forward pass live: planned once, and the memory of one that is read no more serves the next."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx

from compressbench.runtimes.native.graph import Graph, shape_of
from compressbench.runtimes.native.steps import Step


class Memory:
    """The places of all values that have a fixed one.

    Attributes:
        finished: operation -> the values that nothing reads after it.
        buffers: operation on our kernels -> the buffer of its result.
        views: operation that only views a value with a fixed place -> its result. It has not to run.
        places: all of them, what our kernels read, the constants and the image.
    """

    def __init__(self, graph: Graph, steps: Sequence[Step], example: Tensor) -> None:
        self.finished = _last_reads(graph, steps)
        self.buffers = _shared_buffers(steps, self.finished)
        self.views: dict[fx.Node, Tensor] = {}
        constants = {node: value for node, value in graph.constants.items() if isinstance(value, Tensor)}
        self.places = self.buffers | constants
        for step in steps:
            if step.planned is not None:
                missing = [node for node in step.inputs if node not in self.places and node is not graph.input]
                self.places |= {node: torch.empty(shape_of(node)) for node in missing}
                continue
            changing = {node: place for node, place in self.places.items() if node not in graph.constants}
            if (view := _view(step, changing)) is not None:
                self.places[step.node] = self.views[step.node] = view
        self.places[graph.input] = example


def _last_reads(graph: Graph, steps: Sequence[Step]) -> Mapping[fx.Node, list[fx.Node]]:
    last = {node: step.node for step in steps for node in [*step.inputs, step.node]}
    finished: dict[fx.Node, list[fx.Node]] = defaultdict(list)
    for node, at in last.items():
        if node is not graph.output and node is not graph.input:
            finished[at].append(node)
    return finished


def _shared_buffers(steps: Sequence[Step], finished: Mapping[fx.Node, list[fx.Node]]) -> dict[fx.Node, Tensor]:
    """Give every operation on our kernels an output buffer, again and again the same ones."""
    # What PyTorch reads may live on in a view of it.
    seen = {node for step in steps if not (step.fresh or step.planned) for node in step.inputs}
    buffers: dict[fx.Node, Tensor] = {}
    free: dict[tuple[torch.Size, torch.dtype], list[Tensor]] = defaultdict(list)
    for step in steps:
        if step.planned is not None:
            shape, same = shape_of(step.node), free[shape_of(step.node), step.dtype]
            buffers[step.node] = same.pop() if same else torch.empty(shape, dtype=step.dtype)
        for node in finished.get(step.node, []):
            if node in buffers and node not in seen:
                free[shape_of(node), buffers[node].dtype].append(buffers[node])
    return buffers


def _view(step: Step, places: Mapping[fx.Node, Tensor]) -> Tensor | None:
    """The result of an operation that only views an input with a place; None of one that computes, even in place."""
    if len(step.inputs) != 1 or step.inputs[0] not in places:
        return None
    source = places[step.inputs[0]]
    before = source.normal_()._version
    value = step.compute([source])
    if not isinstance(value, Tensor) or source._version != before:
        return None
    return value if value.data_ptr() == source.data_ptr() and value.is_contiguous() else None
