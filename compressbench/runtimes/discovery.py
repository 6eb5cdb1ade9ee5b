"""Which runtimes there are: the classes in this folder that give themselves a name. No list of them stands anywhere.

Names are read from the source: a configuration is checked before any job starts, and without importing torch or what a
runtime needs, which may be missing. A module is imported when its runtime is asked for.
"""

import ast
import fnmatch
import functools
import importlib
import importlib.util
import itertools
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from compressbench import plugins, runtimes
from compressbench.errors import UserError
from compressbench.files import read_text
from compressbench.runtimes.base import Runtime, Skip


def known() -> Mapping[str, tuple[str, str]]:
    """Name -> (module, class) of every runtime; UserError where two have the same name."""
    found: dict[str, tuple[str, str]] = {}
    for module in pkgutil.iter_modules(runtimes.__path__, f"{runtimes.__name__}."):
        spec = importlib.util.find_spec(module.name)
        assert spec is not None and spec.origin is not None, "it was just found"
        for cls, name in _named_classes(Path(spec.origin)).items():
            if name in found:
                raise UserError(f"{spec.origin}: {found[name][0]} has a runtime {name!r}, too; rename one of them.")
            found[name] = module.name, cls
    return dict(sorted(found.items()))


def check(name: str) -> None:
    """UserError, which lists the known names, unless there is a runtime of that name."""
    plugins.find("runtime", name, _constructors())


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """The runtimes that a configuration means: `*` stands for every other one of this folder, without those of `-PATTERN`.

    UserError where a pattern is that of no runtime.
    """
    others = set(known()) - set(names)
    for pattern in (name.removeprefix("-") for name in names if name.startswith("-")):
        if not (left_out := set(fnmatch.filter(known(), pattern))):
            check(pattern)
        others -= left_out
    named = ([name] if name != "*" else sorted(others) for name in names if not name.startswith("-"))
    return tuple(itertools.chain.from_iterable(named))


def make_runtime(name: str) -> Runtime:
    """A fresh runtime: one of this folder, of an installed package, or `package.module:class`.

    Raises:
        UserError: there is none of that name.
        Skip: a library that its module imports is not installed.
    """
    return plugins.find("runtime", name, _constructors())()


def _constructors() -> Mapping[str, Callable[[], Runtime]]:
    return {name: functools.partial(_make, *where) for name, where in known().items()}


def _make(module: str, cls: str) -> Runtime:
    try:
        return getattr(importlib.import_module(module), cls)()  # type: ignore[no-any-return]
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "compressbench":
            raise
        raise Skip(f"{error.name} is not installed") from error


@functools.cache
def _named_classes(file: Path) -> Mapping[str, str]:
    """Class -> its `name`, for every class of a module whose body has one."""
    found = {}
    for definition in ast.parse(read_text(file), str(file)).body:
        if isinstance(definition, ast.ClassDef):
            for statement in definition.body:
                match statement:
                    case (
                        ast.Assign(targets=[ast.Name(id="name")], value=ast.Constant(value=str(name)))
                        | ast.AnnAssign(target=ast.Name(id="name"), value=ast.Constant(value=str(name)))
                    ):
                        found[definition.name] = name
    return found
