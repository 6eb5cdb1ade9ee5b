"""Parts from outside the suite: named in a configuration as `package.module:attribute`, or by an installed package."""

import importlib
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

from compressbench.errors import UserError

Part = TypeVar("Part")


def find(kind: str, name: str, known: Mapping[str, Part], form: type[Part] | None = None) -> Part:
    """The part called `name`: one of `known`, `package.module:attribute`, or an entry point of an installed package.

    Args:
        kind: what it is, in words: "data set" looks at the entry points of the group compressbench.data_sets.
        form: the class that a part from outside must be an instance of; default: anything that can be called.

    Raises:
        UserError: there is none, it cannot be imported, or it is something else.
    """
    if name in known:
        return known[name]
    found = _imported(kind, name) if ":" in name else _installed(kind, name, known)
    if not (callable(found) if form is None else isinstance(found, form)):
        wanted = "something to call" if form is None else f"a {form.__module__}.{form.__name__}"
        raise UserError(f"{kind} {name!r} is a {type(found).__name__}, not {wanted}; name another attribute.")
    return found  # type: ignore[no-any-return]


def group(kind: str) -> str:
    """The entry-point group of a kind of part."""
    return f"compressbench.{kind.replace(' ', '_')}s"


def _imported(kind: str, name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"{kind} {name!r} cannot be imported ({error}); install its package, or correct package.module:attribute."
        ) from error


def _installed(kind: str, name: str, known: Iterable[str]) -> Any:
    for entry in entry_points(group=group(kind), name=name):
        try:
            return entry.load()
        except (ImportError, AttributeError) as error:
            raise UserError(f"{kind} {name!r} of {entry.value} cannot be imported ({error}); repair it.") from error
    raise UserError(
        f"unknown {kind} {name!r}; choose one of {', '.join(sorted(known))}, or name your own as package.module:attribute."
    )
