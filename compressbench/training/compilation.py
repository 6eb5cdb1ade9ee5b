"""Networks that torch.compile translates for the time of their training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from compressbench.errors import UserError
from compressbench.training.hooks import Hook, State

BACKEND = "inductor"


class Compiled(Hook):
    """Ends a training whose loss never calls the compiled network itself: it would run as if nothing had been compiled."""

    def __init__(self) -> None:
        self.graphs = 0

    def backend(self, graph: fx.GraphModule, inputs: list[Tensor]) -> Any:
        """The compiler that torch calls."""
        from torch._dynamo import lookup_backend  # takes a second

        self.graphs += 1
        return lookup_backend(BACKEND)(graph, inputs)

    def on_step_end(self, state: State) -> None:
        if not self.graphs:
            raise UserError(
                "compile: true has no effect on this training, which calls parts of the network by themselves; leave it out."
            )


@contextmanager
def compiled(model: nn.Module) -> Iterator[Compiled]:
    """While it is open, calls of `model` run compiled; yields the hook that sees to it. What is stored is the model itself."""
    hook = Compiled()
    model.compile(backend=hook.backend)
    try:
        yield hook
    finally:
        model._compiled_call_impl = None
        torch.compiler.reset()
