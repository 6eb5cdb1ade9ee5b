"""Discovery of the method folders: the only place of the library that knows the package `methods`."""

import importlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from compressbench.config import Declaration, parse, read_yaml
from compressbench.errors import UserError
from compressbench.levels import KINDS, sources

if TYPE_CHECKING:
    from compressbench.config import MethodConfig
    from compressbench.method import Method


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


def method_class(root: Path, name: str) -> "type[Method]":
    """The class that methods/NAME/method.py defines (imports torch and the method)."""
    from compressbench.method import Method

    package = declaration(root, name).package
    if not (file := files(root)[name].parent / "method.py").exists():
        raise UserError(f"{file} does not exist; write the method there, or remove its folder.")
    module = importlib.import_module(f"{package}.method")
    classes = [
        c
        for c in vars(module).values()
        if isinstance(c, type) and issubclass(c, Method) and c.__module__ == module.__name__
    ]
    if len(classes) != 1:
        raise UserError(
            f"{package}.method must define exactly one subclass of compressbench.method.Method, not {len(classes)}."
        )
    return classes[0]


def resolve(root: Path, name: str, setting: str, scale: str) -> "MethodConfig":
    """The method's configuration: the paper's defaults < scales[scale].config < settings[setting]."""
    declared = declaration(root, name)
    if setting not in declared.settings:
        raise UserError(f"unknown setting {setting!r} of {name}; its config.yaml has: {', '.join(declared.settings)}.")
    at_scale = declared.scales.get(scale)
    merged = (at_scale.config if at_scale else {}) | declared.settings[setting].hyperparameters
    where = f"{declared.package.replace('.', '/')}/config.yaml (setting {setting}, scale {scale})"
    config = parse(method_class(root, name).Config, merged, where)
    _require_level(declared, setting, config, where)
    return config


def _require_level(declared: Declaration, setting: str, config: "MethodConfig", where: str) -> None:
    """UserError where a setting's level hides in a default: the report reads the declaration only."""
    own = declared.settings[setting]
    if own.level is not None:
        return
    for kind, given in sources(declared.level):
        for name in given:
            if not isinstance(name, str):
                continue
            if name not in type(config).model_fields:
                raise UserError(
                    f"{where}: key level.{kind}: the method has no hyper-parameter {name!r}; "
                    f"it has: {', '.join(type(config).model_fields)}."
                )
            if name not in own.hyperparameters and getattr(config, name) not in (None, KINDS[kind].neutral):
                raise UserError(
                    f"{where}: its level ({kind}) is the hyper-parameter {name}, which the setting leaves at "
                    f"{getattr(config, name)!r}; write it there."
                )
        if declared.level_of(setting).kind == kind:
            return
