"""Brings the pinned data sets into data/: from DVC when it has them, else from their public sources.

Every data set is built in a hidden folder beside its place and renamed, so that a folder that exists is whole.
"""

import gzip
import logging
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from compressbench.data import versioning
from compressbench.data.super_resolution import TEST_PHOTOGRAPHS, TRAIN_PHOTOGRAPHS
from compressbench.errors import UserError
from compressbench.files import FULL, make_folder, remedy

log = logging.getLogger(__name__)

IDX_FILES = tuple(f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
_DEBIAN_PACKAGE = "dataset-fashion-mnist"
_DEBIAN_FOLDER = Path("usr/share/datasets/fashion-mnist")


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


def _wheel_folder(package: str, *parts: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f"the package {package} is not installed; install the project's dependencies.")
    return Path(spec.origin).parent.joinpath(*parts)


def _fetch_digits(folder: Path) -> None:
    """The table of 64 pixels and a label per line that scikit-learn ships."""
    packed = _wheel_folder("sklearn", "datasets", "data", "digits.csv.gz")
    (folder / "digits.csv").write_bytes(gzip.decompress(packed.read_bytes()))


def _fetch_photographs(folder: Path) -> None:
    """The files as scikit-image and scikit-learn ship them."""
    shelves = (_wheel_folder("skimage", "data"), _wheel_folder("sklearn", "datasets", "images"))
    for name in TRAIN_PHOTOGRAPHS + TEST_PHOTOGRAPHS:
        found = next((shelf / name for shelf in shelves if (shelf / name).is_file()), None)
        if found is None:
            raise UserError(f"{name} is in neither {shelves[0]} nor {shelves[1]}; install the pinned versions.")
        shutil.copyfile(found, folder / name)


def _fetch_fashion_mnist(folder: Path) -> None:
    """The four IDX files, decompressed: sources compress them differently."""
    reasons = []
    for source in (_from_torchvision, _from_debian):
        try:
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as scratch:
                found = source(Path(scratch))
                for name in IDX_FILES:
                    _copy_decompressed(found / name, folder / name)
            return
        except Exception as error:  # any failure of one source is a reason to try the next, but for a full disk
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            log.warning("%s failed: %s", source.__name__, error)
            reasons.append(f"{source.__name__.removeprefix('_from_')}: {str(error).strip()[:200]}")
    raise UserError(
        f"Fashion-MNIST could not be fetched ({'; '.join(reasons)}); "
        f"put {', '.join(IDX_FILES)}, decompressed, into {folder.parent / 'fashion_mnist'} yourself."
    )


def _copy_decompressed(source: Path, target: Path) -> None:
    """Copies `source`, or unpacks `source`.gz where only that exists."""
    if source.is_file():
        shutil.copyfile(source, target)
        return
    with gzip.open(f"{source}.gz") as packed, target.open("wb") as out:
        shutil.copyfileobj(packed, out)


def _from_torchvision(scratch: Path) -> Path:
    """torchvision's own download, which checks the compressed files; gives up after ten silent seconds."""
    from compressbench.torchvision_compat import torchvision

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)
    try:
        torchvision.datasets.FashionMNIST(scratch, download=True)
    finally:
        socket.setdefaulttimeout(before)
    return scratch / "FashionMNIST" / "raw"


def _from_debian(scratch: Path) -> Path:
    """The files of the Debian package: installed, or downloaded and unpacked without installing."""
    installed = Path("/") / _DEBIAN_FOLDER
    if installed.is_dir():
        return installed
    try:
        _run(["apt-get", "download", _DEBIAN_PACKAGE], scratch)
    except subprocess.CalledProcessError:  # a fresh machine does not know its packages yet
        _run(["apt-get", "update"], scratch)
        _run(["apt-get", "download", _DEBIAN_PACKAGE], scratch)
    package = next(scratch.glob("*.deb"))
    _run(["dpkg", "-x", package.name, "unpacked"], scratch)
    return scratch / "unpacked" / _DEBIAN_FOLDER


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=180)


SOURCES: dict[str, Callable[[Path], None]] = {
    "digits": _fetch_digits,
    "fashion_mnist": _fetch_fashion_mnist,
    "photographs": _fetch_photographs,
}
