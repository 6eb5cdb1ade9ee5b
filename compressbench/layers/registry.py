"""Compressed layers by kind, so that a stored model is rebuilt without the code of the method that made it."""

from collections.abc import Callable
from typing import Any, ClassVar, Protocol, Self, TypeVar, runtime_checkable

from torch import Tensor, nn

from compressbench.layers.quantizers import Grid
from compressbench.models.structure import AnyModule


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


class ReplacedLayer(nn.Module):
    """Base of compressed layers that are a float layer with other arithmetic: list it before nn.Conv2d or nn.Linear.

    `settings` is what `config` stores; each becomes an attribute.
    """

    settings: ClassVar[tuple[str, ...]] = ()
    weight: Tensor

    @classmethod
    def rebuild(cls, original: nn.Module, config: dict[str, Any]) -> Self:
        """The layer in place of `original`: same parameters (shared, not copied), then its own by `add_tensors`."""
        layer = cls.__new__(cls)
        layer.__dict__.update(original.__dict__)
        layer.__dict__.update(config, _parameters=dict(original._parameters), _buffers=dict(original._buffers))
        layer.add_tensors()
        return layer

    def add_tensors(self) -> None:
        """Register what it has beside weight and bias; nothing by default."""

    def config(self) -> dict[str, Any]:
        """The settings."""
        return {name: getattr(self, name) for name in self.settings}


class ActivationQuantizer(nn.Module):
    """Base of quantizers of activations. They replace a module without state, and are built from `config` alone.

    `settings` is what `config` stores: the arguments of the constructor, each of them an attribute.
    """

    settings: ClassVar[tuple[str, ...]] = ("bits",)
    bits: int

    def config(self) -> dict[str, Any]:
        """The settings."""
        return {name: getattr(self, name) for name in self.settings}

    @classmethod
    def rebuild(cls, original: nn.Module, config: dict[str, Any]) -> Self:
        """A fresh quantizer."""
        return cls(**config).train(original.training)

    def grid(self) -> Grid | None:
        """The values that the output may have; None where they depend on the sample."""
        raise NotImplementedError


LAYER_KINDS: dict[str, type[CompressedLayer]] = {}
Layer = TypeVar("Layer", bound=type[CompressedLayer])


def compressed_layer(cls: Layer) -> Layer:
    """Register a compressed layer under its `kind`."""
    LAYER_KINDS[cls.kind] = cls
    return cls


def replace_module(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put `layer` in the place of the module `name`, in place and on the device of the model's parameters."""
    parameter = next(model.parameters(), None)
    model.set_submodule(name, layer if parameter is None else layer.to(parameter.device))


def replace_modules(model: AnyModule, replace: Callable[[str, nn.Module], nn.Module | None]) -> AnyModule:
    """Ask `replace(name, module)` for every module of the model, in order, and put what it returns (if any) in its place."""
    for name, module in list(model.named_modules()):
        if name and (new := replace(name, module)) is not None:
            replace_module(model, name, new)
    return model
