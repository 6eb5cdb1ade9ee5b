"""Fashion-MNIST (Xiao et al. 2017), and six, two and two of its classes in sessions."""

import gzip
import logging
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from compressbench.data.classification import ClassificationData, divide
from compressbench.data.datasets import Dataset, DatasetInfo, Protocol, remedy
from compressbench.data.incremental import in_sessions_of
from compressbench.errors import UserError
from compressbench.files import FULL

log = logging.getLogger(__name__)

SCALING = ((0.2860,), (0.3530,))
FASHION_MNIST = DatasetInfo("fashion_mnist", "classification", 1, 28, 10, *SCALING)
SESSIONS = DatasetInfo("fashion_mnist_sessions", "class_incremental", 1, 28, 10, *SCALING)
IDX_FILES = tuple(f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
_IDX_TYPE_UINT8 = 8
_DEBIAN_PACKAGE = "dataset-fashion-mnist"
_DEBIAN_FOLDER = Path("usr/share/datasets/fashion-mnist")


def load(folder: Path, limit: int | None) -> ClassificationData:
    """60,000 and 10,000 grey images of 28x28 clothes (Xiao et al. 2017)."""
    folder = folder / "fashion_mnist"

    def part(prefix: str) -> tuple[np.ndarray, np.ndarray]:
        images = read_idx(folder / f"{prefix}-images-idx3-ubyte")
        labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte")
        if images.shape != (len(labels), 28, 28) or labels.max(initial=0) > 9:
            raise UserError(f"{folder}/{prefix}-*: images and labels do not fit; {remedy(folder / prefix)}.")
        return images[..., None], labels

    return divide(FASHION_MNIST, part("train"), part("t10k"), validation=5_000, limit=limit)


def read_idx(path: Path) -> np.ndarray:
    """A uint8 IDX file of any rank, memory-mapped and read-only."""
    try:
        head = np.fromfile(path, dtype=np.uint8, count=4)
        if len(head) < 4 or head[0] or head[1] or head[2] != _IDX_TYPE_UINT8:
            raise ValueError("not an IDX file of bytes")
        shape = tuple(int(n) for n in np.fromfile(path, dtype=">i4", count=int(head[3]), offset=4))
        start = 4 + 4 * int(head[3])
        if path.stat().st_size != start + np.prod(shape, dtype=np.int64):
            raise ValueError(f"its size does not fit its shape {shape}")
        return np.memmap(path, dtype=np.uint8, mode="r", offset=start, shape=shape)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {remedy(path)}.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); {remedy(path)}.") from error


def fetch(folder: Path) -> None:
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


WHOLE = Dataset(FASHION_MNIST, load, fetch)
DATASETS = (WHOLE, in_sessions_of(WHOLE, SESSIONS, Protocol((6, 2, 2), draws=5)))
