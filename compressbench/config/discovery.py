"""Discovery of the method folders: the only place of the library that knows the package `methods`."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from compressbench.config import Declaration, parse, read_yaml
from compressbench.errors import UserError

if TYPE_CHECKING:
    pass


def discover(root: Path) -> dict[str, Declaration]:
    """Every methods/NAME/config.yaml and methods/baselines/NAME/config.yaml, validated, by name."""
    return {name: declaration(root, name) for name in files(root)}


@cache
def files(root: Path) -> dict[str, Path]:
    """The config.yaml of every method, by name."""
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
    known = files(root)
    if name not in known:
        for folder in (root / "methods" / name, root / "methods/baselines" / name):
            if name and (folder / "method.py").exists():
                raise UserError(f"{folder} has no config.yaml; write one, as those of the other methods.")
        raise UserError(f"unknown method {name!r}; methods/ has: {', '.join(known)}.")
    where = known[name].relative_to(root)
    declared = parse(Declaration, read_yaml(known[name]), str(where))
    return declared.model_copy(update={"package": ".".join(where.parent.parts)})
