"""Brings the pinned data sets into data/: from DVC when it has them, else from their public sources.

Every data set is built in a hidden folder beside its place and renamed, so that a folder that exists is whole.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from compressbench.data import DATASETS, versioning
from compressbench.errors import UserError
from compressbench.files import make_folder, remedy

log = logging.getLogger(__name__)


def prepare(root: Path, names: Collection[str] | None = None) -> dict[str, str]:
    """The data stage: fetches what is missing, checks it, and returns the hash of each data set.

    names: of data sets that are fetched into data/ or downloaded beside it; default: all that data.dvc pins.
    """
    wanted = SOURCES.keys() if names is None else names
    if unknown := sorted(set(wanted) - SOURCES.keys() - DOWNLOADS.keys()):
        raise UserError(
            f"{unknown[0]} is not a data set that can be fetched; choose of {', '.join(sorted({*SOURCES, *DOWNLOADS}))}."
        )
    downloaded = {name: DOWNLOADS[name] for name in wanted if name in DOWNLOADS}
    for entry in downloaded.values():
        entry.download(root / "data")  # type: ignore[misc]
    pinned = [name for name in wanted if name in SOURCES]
    if pinned:
        fetch(root, pinned)
    hashes = versioning.check(root, None if names is None else pinned) if pinned or names is None else {}
    return hashes | {name: str(entry.hash) for name, entry in downloaded.items()}


def fetch(root: Path, names: Collection[str] | None = None) -> list[str]:
    """Brings what is missing in root/data and returns the names of the data sets that came from their public source."""
    missing = _missing(root, names)
    if missing and versioning.restore(root):
        for name in missing:
            if (root / "data" / name).is_dir() and versioning.differences(root, name):
                log.warning("DVC gave a damaged %s; it is fetched from its public source instead", name)
                shutil.rmtree(root / "data" / name)
        versioning.drop_damaged(root)  # a remote may just have put it there
        missing = _missing(root, names)
    for name in missing:
        log.info("fetching %s", name)
        with _new_folder(root / "data" / name) as folder:
            SOURCES[name](folder)
    return missing


def _missing(root: Path, names: Collection[str] | None) -> list[str]:
    return [name for name in SOURCES if (names is None or name in names) and not (root / "data" / name).is_dir()]


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A hidden folder that becomes `target` when the block ends well and vanishes when it does not."""
    make_folder(target.parent)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".fetch-"))
    try:
        yield temporary
        temporary.chmod(0o755)
        os.replace(temporary, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}; {remedy(error)}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


SOURCES: dict[str, Callable[[Path], None]] = {name: entry.fetch for name, entry in DATASETS.items() if entry.fetch}
DOWNLOADS = {entry.info.folder: entry for entry in DATASETS.values() if entry.download and not entry.protocol}
