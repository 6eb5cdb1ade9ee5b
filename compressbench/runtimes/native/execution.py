"""Running the steps: neighbouring ones on our kernels as one call, others as they are, views not at all.

Between two calls, Python and PyTorch take longer than a small layer: their code is no longer in the cache.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from compressbench.kernels import native
from compressbench.runtimes.native.graph import Graph
from compressbench.runtimes.native.memory import Memory
from compressbench.runtimes.native.pairs import expanded_pairs
from compressbench.runtimes.native.steps import Step

Values = dict[fx.Node, Any]
Action = Callable[[Values], None]


class Execution:
    """A network that is ready to run again and again on the same image."""

    def __init__(self, graph: Graph, steps: Sequence[Step], example: Tensor) -> None:
        self.memory = Memory(graph, steps, example)
        self._output = graph.output
        self._given: Values = {graph.input: example, **graph.constants, **self.memory.views}
        self._pairs = expanded_pairs(steps, graph.output)
        within = [first for first, _ in self._pairs.values()]
        left = [step for step in steps if step.node not in self.memory.views and step not in within]
        groups = itertools.groupby(left, lambda step: step.planned is not None)
        self._actions = [
            action
            for ours, group in groups
            for action in (self._program(list(group)) if ours else self._one_by_one(group))
        ]

    def run(self) -> Tensor:
        """One forward pass."""
        values = dict(self._given)
        for action in self._actions:
            action(values)
        return values[self._output]  # type: ignore[no-any-return]

    def _program(self, steps: Sequence[Step]) -> list[Action]:
        """Steps on our kernels, as one call."""
        places, calls = self.memory.places, []
        for step in steps:
            if step.node in self._pairs:
                first, pair = self._pairs[step.node]
                calls.append(pair.step(places[first.inputs[0]], places[step.node]))
                continue
            x, *residual = (places[node] for node in step.inputs)
            calls.append(step.planned.step(x, places[step.node], *residual))  # type: ignore[union-attr]
        call = native.program(calls)
        return [functools.partial(_run_program, call, {step.node: places[step.node] for step in steps})]

    def _one_by_one(self, steps: Iterable[Step]) -> list[Action]:
        """Steps in PyTorch."""
        memory = self.memory
        return [
            functools.partial(_run_step, step, memory.places.get(step.node), memory.finished.get(step.node, []))
            for step in steps
        ]


def one_by_one(run: Callable[[], Tensor], image: Tensor, batch: Tensor) -> Callable[[], Tensor]:
    """The pass over a batch that copies each image to where `run` reads `image` [1, ...]."""

    def call() -> Tensor:
        results = []
        for one in batch.split(1):
            image.copy_(one)
            results.append(run().clone())
        return torch.cat(results)

    return call


def _run_program(call: Callable[[], None], results: Values, values: Values) -> None:
    call()
    values.update(results)


def _run_step(step: Step, place: Tensor | None, finished: Iterable[fx.Node], values: Values) -> None:
    result = step.compute([values[node] for node in step.inputs])
    values[step.node] = result if place is None else place.copy_(result)
    for node in finished:
        values.pop(node, None)
