"""A hash that stands for data which the project does not pin: names, sizes, and the content of some or all files.

It is computed once and kept below results/data, beside a key of names, sizes and times by which a change is noticed.
"""

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from compressbench.errors import UserError
from compressbench.files import read_json, write_json

log = logging.getLogger(__name__)

Mode = Literal["names", "sample", "all"]
SAMPLE = 1000
LENGTH = 24  # letters of a hash: with the mode, MLflow's limit for a data set's digest is 36


class File(NamedTuple):
    """A file below the folder of a data set; time in nanoseconds."""

    name: str
    size: int
    time: int


def recorded(root: Path, name: str, folder: Path, mode: Mode) -> str:
    """The hash as it was computed last, or now where it never was. Does not look at the files again."""
    known = _read(_record(root, name), folder, mode)
    return refreshed(root, name, folder, mode) if known is None else str(known["hash"])


def refreshed(root: Path, name: str, folder: Path, mode: Mode) -> str:
    """The hash of the files as they are now: computed anew where a name, a size or a time has changed."""
    record, found = _record(root, name), sorted(files(folder))
    key = _digest(os.fsencode(f"{file.name}\t{file.size}\t{file.time}\n") for file in found)
    known = _read(record, folder, mode)
    if known is not None and known["key"] == key:
        return str(known["hash"])
    log.info("hashing the %d files of %s", len(found), folder)
    value = f"{mode}-{of(folder, found, mode)}"
    write_json(record, {"folder": str(folder.resolve()), "mode": mode, "files": len(found), "key": key, "hash": value})
    return value


def of(folder: Path, found: list[File], mode: Mode) -> str:
    """The hash of names and sizes, then of the content of all files or of those whose names have the lowest hashes."""
    listing = [os.fsencode(f"{file.name}\t{file.size}\n") for file in found]
    read = [] if mode == "names" else found
    if mode == "sample":
        read = sorted(found, key=lambda file: hashlib.blake2b(os.fsencode(file.name)).digest())[:SAMPLE]
    return _digest([*listing, *(_content(folder / file.name) for file in read)])


def files(folder: Path) -> Iterator[File]:
    """Every file below a folder that is not hidden."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from (file._replace(name=f"{entry.name}/{file.name}") for file in files(Path(entry.path)))
            else:
                status = entry.stat()
                yield File(entry.name, status.st_size, status.st_mtime_ns)


def _digest(parts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()[:LENGTH]


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, hashlib.sha256).digest()
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); make it readable.") from error


def _record(root: Path, name: str) -> Path:
    return root / "results" / "data" / f"manifest_{name}.json"


def _read(record: Path, folder: Path, mode: Mode) -> dict[str, Any] | None:
    """What is recorded of this folder in this mode."""
    if not record.exists():
        return None
    content: dict[str, Any] = read_json(record)
    return content if (content["folder"], content["mode"]) == (str(folder.resolve()), mode) else None
