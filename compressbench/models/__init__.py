"""The papers' architectures. `build` is the only entry: it attaches the spec from which a stored model is rebuilt.

A module lists the architectures that it defines in `ARCHITECTURES`; those of other packages are named as
`package.module:attribute` or offered by an entry point (`compressbench.plugins`); what builds a plain nn.Module is wrapped
(`compressbench.models.foreign`).
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

from torch import nn

from compressbench import plugins
from compressbench.errors import UserError
from compressbench.models import foreign
from compressbench.models.structure import Classifier, Coupling, ModelSpec, Network, SuperResolver

__all__ = ["ARCHITECTURES", "Classifier", "Coupling", "ModelSpec", "Network", "SuperResolver", "build", "find"]

Constructor = Callable[..., Any]

ARCHITECTURES: dict[str, Constructor] = {}
"""Those of the suite, by name."""

for _found in pkgutil.iter_modules(__path__):
    ARCHITECTURES |= getattr(importlib.import_module(f"{__name__}.{_found.name}"), "ARCHITECTURES", {})


def find(name: str) -> Constructor:
    """What builds an architecture of the suite, of an installed package, or `package.module:attribute`."""
    if name not in ARCHITECTURES:
        import compressbench.torchvision_compat  # noqa: F401  (what is named may import torchvision)
    return plugins.find("architecture", name, ARCHITECTURES)


def build(architecture: str, **arguments: Any) -> Network:
    """A freshly initialised network (drawn from torch's current generator) with `model.spec` attached."""
    constructor = find(architecture)
    if isinstance(constructor, nn.Module):
        raise UserError(f"architecture {architecture} is a network, not what builds one; name its class or a function.")
    parameters = inspect.signature(constructor).parameters
    wrapped = foreign.SHAPE in arguments and foreign.SHAPE not in parameters
    known = {*parameters, *(foreign.OWN if wrapped else ())}
    if (unknown := set(arguments) - known) and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raise UserError(f"architecture {architecture} has no argument {', '.join(sorted(unknown))}")
    try:
        model = foreign.build(architecture, constructor, arguments) if wrapped else constructor(**arguments)
    except ValueError as error:
        raise UserError(f"architecture {architecture}: {error}") from error
    if not isinstance(model, Network):
        raise UserError(foreign.describe(architecture, model))
    _check_inner_widths(model, arguments.get("inner_widths"))
    model.spec = ModelSpec(architecture, arguments)
    return model


def _check_inner_widths(model: Network, inner_widths: dict[str, int] | None) -> None:
    """A misspelt name would silently leave a layer at its full width."""
    if not inner_widths:
        return
    unknown = set(inner_widths) - {coupling.key for coupling in model.couplings()}
    if unknown:
        raise UserError(f"inner_widths names layers without a free width: {', '.join(sorted(unknown))}")
