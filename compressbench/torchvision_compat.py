"""Imports torchvision beside a torch of another build (CPU torch, CUDA torchvision as PyPI ships it).

There the compiled operators of torchvision do not load, and `import torchvision` fails because two schemas that its
Python code refers to are missing. Defining them is enough for all that is pure Python (data sets, transforms, models).
Import torchvision from here and nowhere else: `from compressbench.torchvision_compat import torchvision`.
"""

import importlib.util
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _compiled_operators_load() -> bool:
    """Whether torchvision's own library, which would define the schemas itself, fits this torch."""
    spec = importlib.util.find_spec("torchvision")
    folders = spec.submodule_search_locations if spec else None
    libraries = [library for folder in folders or () for library in sorted(Path(folder).glob("_C*.so"))]
    try:
        for library in libraries:
            torch.ops.load_library(str(library))
    except OSError:
        return False
    return bool(libraries)


if not _compiled_operators_load():
    _library = torch.library.Library("torchvision", "DEF")  # kept: the schemas live as long as this object
    for _schema in _SCHEMAS:
        _library.define(_schema)

import torchvision  # noqa: E402  (only now can it be imported)

__all__ = ["torchvision"]
