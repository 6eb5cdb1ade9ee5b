"""The papers' architectures. `build` is the only entry: it attaches the spec from which a stored model is rebuilt.

A module lists the architectures that it defines in `ARCHITECTURES`; those of other packages are named as
`package.module:attribute` or offered by an entry point (`compressbench.plugins`).
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

from compressbench import plugins
from compressbench.errors import UserError
from compressbench.models.structure import Classifier, Coupling, ModelSpec, Network, SuperResolver

__all__ = ["ARCHITECTURES", "Classifier", "Coupling", "ModelSpec", "Network", "SuperResolver", "build", "find"]

Constructor = Callable[..., Network]

ARCHITECTURES: dict[str, Constructor] = {}
"""Those of the suite, by name."""

for _found in pkgutil.iter_modules(__path__):
    ARCHITECTURES |= getattr(importlib.import_module(f"{__name__}.{_found.name}"), "ARCHITECTURES", {})


def find(name: str) -> Constructor:
    """What builds an architecture of the suite, of an installed package, or `package.module:attribute`."""
    return plugins.find("architecture", name, ARCHITECTURES)


def build(architecture: str, **arguments: Any) -> Network:
    """A freshly initialised network (drawn from torch's current generator) with `model.spec` attached."""
    constructor = find(architecture)
    unknown = set(arguments) - set(inspect.signature(constructor).parameters)
    if unknown:
        raise UserError(f"architecture {architecture} has no argument {', '.join(sorted(unknown))}")
    try:
        model = constructor(**arguments)
    except ValueError as error:
        raise UserError(f"architecture {architecture}: {error}") from error
    _check_inner_widths(model, arguments.get("inner_widths"))
    model.spec = ModelSpec(architecture, arguments)
    return model


def _check_inner_widths(model: Network, inner_widths: dict[str, int] | None) -> None:
    """A misspelt name would silently leave a layer at its full width."""
    unknown = set(inner_widths or {}) - {coupling.key for coupling in model.couplings()}
    if unknown:
        raise UserError(f"inner_widths names layers without a free width: {', '.join(sorted(unknown))}")
