"""Importing this module registers every kind of compressed layer: it imports all its neighbours."""

import importlib
import pkgutil

import compressbench.compression

for _module in pkgutil.iter_modules(compressbench.compression.__path__):
    if _module.name != "all_layers":
        importlib.import_module(f"compressbench.compression.{_module.name}")
