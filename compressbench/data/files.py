"""Locations of the files of data sets."""

import os
from importlib.util import find_spec
from pathlib import Path

from compressbench.errors import UserError


def external_folder(folder: Path) -> Path:
    """Where data sets that are too large to pin are looked for; `folder` is data/."""
    return Path(os.environ.get("COMPRESSBENCH_DATA") or folder / "external")


def wheel_folder(package: str, *parts: str) -> Path:
    """A folder of an installed package."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f"the package {package} is not installed; install the project's dependencies.")
    return Path(spec.origin).parent.joinpath(*parts)
