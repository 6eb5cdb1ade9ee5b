"""Files are whole or absent, and what is damaged or refused is named."""

import errno
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch

from compressbench import models, storage
from compressbench.errors import UserError
from compressbench.files import in_memory, read_json, read_text, remedy, write_bytes, write_json, write_text


def test_no_partial_file_is_left_behind(tmp_path: Path) -> None:
    from compressbench.files import write_atomically

    target = tmp_path / "file.txt"
    target.write_text("whole", encoding="utf-8")

    def fail(path: Path) -> None:
        path.write_text("half", encoding="utf-8")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"cannot write .*file.txt: No space left on device"):
        write_atomically(target, fail)
    assert target.read_text(encoding="utf-8") == "whole"
    assert list(tmp_path.iterdir()) == [target]


@contextmanager
def full_disk(left: int) -> Iterator[None]:
    """No file may become longer than `left` bytes, for root as for everybody: the system refuses as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _preview(path: Path) -> None:
    from compressbench.data_free.synthesis import write_preview

    write_preview(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3]), path)


def _figure(path: Path) -> None:
    from compressbench.reporting.style import placeholder, save

    save(placeholder("title", "subtitle", "reason"), path.parent, path.name)


def _table(path: Path) -> None:
    from compressbench.reporting.tables import write_table

    write_table(path.parent, path.name, pd.DataFrame({"a": range(1000)}), "text")


def _pictures(path: Path) -> None:
    from compressbench.data.super_resolution import ImagePair
    from compressbench.quality import _write_pictures

    _write_pictures(
        path.parent,
        ImagePair("a", torch.rand(3, 32, 32) * 255, torch.rand(3, 64, 64) * 255),
        torch.rand(3, 64, 64) * 255,
        2,
    )


def _latency_table(path: Path) -> None:
    from compressbench.supernet.latency_table import LatencyTable

    LatencyTable({(i, 0, 0): 0.0 for i in range(500)}).save(path)  # type: ignore[dict-item]


WRITERS: dict[str, Callable[[Path], object]] = {
    "safetensors": lambda path: storage.save_tensors(path, {"a": torch.randn(1000)}),
    "model": lambda path: storage.save_model(models.build("plain"), path),
    "json": lambda path: write_json(path, list(range(1000))),
    "text": lambda path: write_text(path, "é" * 1000),
    "bytes": lambda path: write_bytes(path, bytes(2000)),
    "preview": _preview,
    "figure": _figure,
    "table": _table,
    "pictures": _pictures,
    "latency table": _latency_table,
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_one_sentence_whatever_makes_the_file(tmp_path: Path, write: Callable[[Path], object]) -> None:
    with pytest.raises(UserError, match=r"^cannot write .*: File too large; make room\.$"), full_disk(100):
        write(tmp_path / "out")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    write(tmp_path / "out")
    assert [p for p in tmp_path.rglob("*") if p.is_file()]


def test_what_is_made_in_memory_is_what_would_be_written(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5), "c": torch.tensor(True)}
    save_file(tensors, tmp_path / "directly")
    storage.save_tensors(tmp_path / "ours", tensors)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "directly").read_bytes()
    frame = pd.DataFrame({"a": [1.5, float("nan")], "b": ["é", ","]})
    assert in_memory(lambda file: frame.to_csv(file, index=False)).decode() == frame.to_csv(index=False)


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EROFS, "make the folder writable"),
        (errno.ENOTDIR, "move away what is in its place"),
    ],
)
def test_the_advice_fits_the_refusal(number: int, advice: str) -> None:
    assert remedy(OSError(number, "reason")) == advice


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*metrics\.json: Is a directory; move away"):
        write_json(tmp_path / "metrics.json", {})
    with pytest.raises(UserError, match=r"cannot read .*metrics\.json: Is a directory"):
        read_json(tmp_path / "metrics.json")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b'{"a": '])
def test_damaged_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json is damaged .*delete it and run its stage again"):
        read_json(tmp_path / "a.json")


def test_text_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes("title: é".encode("latin-1"))
    with pytest.raises(UserError, match=r"a\.yaml is not UTF-8 text .* at byte 7\); save it as UTF-8"):
        read_text(tmp_path / "a.yaml")
