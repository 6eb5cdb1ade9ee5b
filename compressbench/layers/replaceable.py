"""Which modules may be replaced by another form: those of which it reads every argument, or knows what the value means."""

import inspect
from collections.abc import Callable, Collection
from typing import Any, Generic, TypeGuard, TypeVar

from torch import nn

Test = Callable[[Any], bool]
Kind = TypeVar("Kind", bound=nn.Module, covariant=True)
METHODS = ("forward", "_conv_forward")


def one_of(*values: Any) -> Test:
    """The form computes these values of an argument, and no others."""
    return lambda value: value in values


def equal_pair(value: Any) -> bool:
    """The form takes one number for both sides."""
    return isinstance(value, tuple) and len(value) == 2 and value[0] == value[1]


def one_number(value: Any) -> bool:
    """The form takes one number for both sides, given as one."""
    return isinstance(value, int)


def numbers(value: Any) -> bool:
    """The form does not take a name, such as padding "same"."""
    return not isinstance(value, str)


def present(value: Any) -> bool:
    """The form needs the tensor."""
    return value is not None


class Replaceable(Generic[Kind]):
    """The modules of one kind that a form computes.

    Args:
        kind: class of the module.
        reads: the constructor's arguments that the form reads, whatever their values.
        tests: those, or other attributes, of which it computes some values only.

    An argument that is in neither, such as one that a later PyTorch adds, would be dropped by the form: no module fits then.
    """

    def __init__(self, kind: type[Kind], reads: Collection[str] = (), **tests: Test) -> None:
        self.kind, self.reads, self.tests = kind, reads, tests
        self._complete = _arguments(kind) <= {*reads, *tests}

    def fits(self, module: nn.Module) -> TypeGuard[Kind]:
        """Whether the form reads all that is set on the module, which has the kind or one derived from it, and no hooks."""
        plain = isinstance(module, self.kind) and not (module._forward_hooks or module._forward_pre_hooks)
        return self._complete and plain and all(test(getattr(module, name)) for name, test in self.tests.items())

    def covers(self, module: nn.Module) -> TypeGuard[Kind]:
        """Whether it `fits` and computes what its kind does: no derived class has a forward of its own."""
        return self.fits(module) and not any(
            getattr(type(module), name, None) is not getattr(self.kind, name, None) or name in vars(module)
            for name in METHODS
        )


def _arguments(kind: type[nn.Module]) -> frozenset[str]:
    return frozenset(inspect.signature(kind).parameters) - {"device", "dtype"}


SIZES = ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups", "bias")
CONVOLUTION = Replaceable(nn.Conv2d, (*SIZES, "padding", "padding_mode"))
"""A form that calls the module itself, or copies all of it."""
ZERO_PADDED = Replaceable(nn.Conv2d, (*SIZES, "padding"), padding_mode=one_of("zeros"))
"""A form that calls `conv2d`."""
LINEAR_READS = ("in_features", "out_features", "bias")
LINEAR = Replaceable(nn.Linear, LINEAR_READS)
BATCH_NORM_READS = ("num_features", "eps", "momentum", "affine", "track_running_stats", "bias")
BATCH_NORM = Replaceable(nn.BatchNorm2d, BATCH_NORM_READS, running_mean=present, running_var=present)
"""A normalisation in eval mode by its running statistics; without them PyTorch takes those of the batch."""
VECTOR_NORM = Replaceable(nn.BatchNorm1d, BATCH_NORM_READS, running_mean=present, running_var=present)
"""The same of vectors."""
