"""Compressed layers by kind, so that a stored model is rebuilt without the code of the method that made it."""

from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from torch import nn


@runtime_checkable
class CompressedLayer(Protocol):
    """A module that replaces a module of the architecture. Its tensors live in the state dict, the rest in `config`."""

    kind: ClassVar[str]

    def config(self) -> dict[str, Any]:
        """Everything but tensors that `rebuild` needs (JSON)."""
        ...

    @classmethod
    def rebuild(cls, original: nn.Module, config: dict[str, Any]) -> nn.Module:
        """The layer in place of `original`; its tensors are loaded afterwards."""
        ...


LAYER_KINDS: dict[str, type[CompressedLayer]] = {}
Layer = TypeVar("Layer", bound=type[CompressedLayer])


def compressed_layer(cls: Layer) -> Layer:
    """Register a compressed layer under its `kind`."""
    LAYER_KINDS[cls.kind] = cls
    return cls


def replace_modules(model: nn.Module, replace: Callable[[str, nn.Module], nn.Module | None]) -> nn.Module:
    """Ask `replace(name, module)` for every module of the model, in order, and put what it returns (if any) in its place."""
    for name, module in list(model.named_modules()):
        if name and (new := replace(name, module)) is not None:
            model.set_submodule(name, new)
    return model
