"""The class and the configuration of a method, by its name."""

import importlib
from pathlib import Path

from compressbench.config import Declaration, MethodConfig, parse
from compressbench.config.discovery import declaration, folder
from compressbench.config.levels import KINDS, sources
from compressbench.errors import UserError
from compressbench.method.base import Method


def method_class(root: Path, name: str) -> type[Method]:
    """The class that methods/NAME/method.py defines (imports torch and the method)."""
    package = declaration(root, name).package
    if not (file := folder(root, name) / "method.py").exists():
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


def resolve(root: Path, name: str, setting: str, scale: str, declared: Declaration | None = None) -> MethodConfig:
    """The method's configuration: the paper's defaults < scales[scale].config < settings[setting] < budget.

    declared: what the method declares, where the scale's file says more of it than the method's own.
    """
    own = declaration(root, name)
    also = "" if declared is None or scale in own.scales else f" and config/{scale}.yaml (methods.{name})"
    declared = declared or own
    if setting not in declared.settings:
        raise UserError(f"unknown setting {setting!r} of {name}; its config.yaml has: {', '.join(declared.settings)}.")
    at_scale = declared.scales.get(scale)
    merged = declared.settings[setting].hyperparameters
    if at_scale:
        merged = at_scale.config | merged | at_scale.budget
    where = f"{declared.package.replace('.', '/')}/config.yaml (setting {setting}, scale {scale}){also}"
    config = parse(method_class(root, name).Config, merged, where)
    _require_level(declared, setting, config, where)
    return config


def _require_level(declared: Declaration, setting: str, config: MethodConfig, where: str) -> None:
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
