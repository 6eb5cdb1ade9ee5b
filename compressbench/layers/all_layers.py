"""Importing this module registers every kind of compressed layer: it imports all its neighbours."""

import importlib
import pkgutil

import compressbench.layers

for _module in pkgutil.iter_modules(compressbench.layers.__path__):
    if _module.name != "all_layers":
        importlib.import_module(f"compressbench.layers.{_module.name}")
