"""Discovery of the method folders: the only module of the library that depends on the folder `methods`."""

from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from compressbench.config import Declaration, parse, read_yaml
from compressbench.errors import UserError
from compressbench.plugins import group


def discover(root: Path) -> dict[str, Declaration]:
    """The declaration of every method, validated, by name."""
    return {name: declaration(root, name) for name in files(root)}


@cache
def files(root: Path) -> dict[str, Path]:
    """The config.yaml of every method, by name: those of the project, and those that installed packages offer."""
    found = dict(own_files(root))
    for name, package in _installed().items():
        if name in found:
            raise UserError(f"{package}: a second method is called {name!r}; rename its entry point.")
        found[name] = _folder_of(package) / "config.yaml"
    return found


@cache
def own_files(root: Path) -> dict[str, Path]:
    """The config.yaml of every method of the project, by name."""
    found: dict[str, Path] = {}
    for path in sorted([*root.glob("methods/*/config.yaml"), *root.glob("methods/baselines/*/config.yaml")]):
        if (name := path.parent.name) in found:
            where = path.relative_to(root)
            raise UserError(f"{where}: a second method is called {name!r}; rename one of the folders.")
        found[name] = path
    if not found:
        raise UserError(f"{root / 'methods'} has no method folder with a config.yaml; run from the project's root.")
    return found


@cache
def declaration(root: Path, name: str) -> Declaration:
    """The declaration of one method, validated; UserError lists the known ones. Reads no other method's file: jobs need one."""
    if path := own_files(root).get(name):
        where = path.relative_to(root)
        declared = parse(Declaration, read_yaml(path), str(where))
        return declared.model_copy(update={"package": ".".join(where.parent.parts)})
    if name not in (known := files(root)):
        for folder in (root / "methods" / name, root / "methods/baselines" / name):
            if name and (folder / "method.py").exists():
                raise UserError(f"{folder} has no config.yaml; write one, as those of the other methods.")
        raise UserError(f"unknown method {name!r}; methods/ has: {', '.join(known)}.")
    declared = parse(Declaration, read_yaml(known[name]), str(known[name]))
    return declared.model_copy(update={"package": _installed()[name]})


def folder(root: Path, name: str) -> Path:
    """Where a method's files are. Looks at installed packages only where the project has no method of that name."""
    return (own_files(root).get(name) or files(root)[name]).parent


def _installed() -> dict[str, str]:
    """Name -> package of every method that an installed package offers: an entry point of the group compressbench.methods."""
    return {entry.name: entry.value for entry in entry_points(group=group("method"))}


def _folder_of(package: str) -> Path:
    try:
        spec = find_spec(package)
    except ImportError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the method package {package} cannot be found; repair the installation of its package.")
    return Path(spec.submodule_search_locations[0])
