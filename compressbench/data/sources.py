"""Fetches the pinned data sets into data/: from DVC when it has them, otherwise from their public sources.

Every data set is built in a hidden folder beside its place and renamed, so that a folder that exists is whole.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from compressbench.data import DATASETS, versioning
from compressbench.errors import UserError
from compressbench.files import make_folder, remedy

log = logging.getLogger(__name__)


def prepare(root: Path) -> dict[str, str]:
    """The data stage: fetches what is missing, checks everything, returns the pinned hash of each data set."""
    fetch(root)
    return versioning.check(root)


def fetch(root: Path) -> list[str]:
    """Brings what is missing in root/data and returns the names of the data sets that came from their public source."""
    missing = _missing(root)
    if missing and versioning.restore(root):
        for name in missing:
            if (root / "data" / name).is_dir() and versioning.differences(root, name):
                log.warning("DVC gave a damaged %s; it is fetched from its public source instead", name)
                shutil.rmtree(root / "data" / name)
        versioning.drop_damaged(root)  # a remote may just have put it there
        missing = _missing(root)
    for name in missing:
        log.info("fetching %s", name)
        with _new_folder(root / "data" / name) as folder:
            SOURCES[name](folder)
    return missing


def _missing(root: Path) -> list[str]:
    return [name for name in SOURCES if not (root / "data" / name).is_dir()]


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
