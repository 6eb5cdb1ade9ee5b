"""PyTorch's own compiler of static graphs."""

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from compressbench.kernels.autotune import fastest
from compressbench.runtimes.base import Skip, last_line
from compressbench.runtimes.torch_eager import TorchEager


class TorchCompiled(TorchEager):
    """TorchScript: the faster, in a short trial, of a frozen graph and one with weights packed for oneDNN beforehand.

    Frozen wins on networks below a few milliseconds (0.17 against 0.40 ms, eager mode 0.28), packed on ImageNet's (90
    against 103 ms on ResNet-50). Both together take 0.1 s to prepare. `torch.compile` takes 20 s for the first network
    and was no faster than eager mode on the small ones, so it is not used.
    """

    name = "torch_compiled"

    def compile(self, model: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
        """The TorchScript module."""
        with warnings.catch_warnings():  # of values traced as constants, as one fixed input shape wants
            warnings.simplefilter("ignore")
            try:
                traced = torch.jit.trace(model, example, check_trace=False)
                frozen = torch.jit.freeze(traced)
                packed = torch.jit.optimize_for_inference(torch.jit.freeze(traced))  # rewrites the graph that it gets
                forms = {"frozen": frozen, "packed": packed}
                return forms[fastest({name: functools.partial(form, example) for name, form in forms.items()})]
            except (RuntimeError, NotImplementedError) as error:
                raise Skip(f"TorchScript cannot run this model: {last_line(error)}") from error
