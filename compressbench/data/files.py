"""Locations of the files of data sets, and how long a download may be silent."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def giving_up_after(seconds: float) -> Iterator[None]:
    """Downloads end with an error after so many silent seconds."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
