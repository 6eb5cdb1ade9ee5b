"""What environment variables say, and where a command was started."""

import io
import logging
import sys
from pathlib import Path

import pytest

from compressbench import environment
from compressbench.errors import UserError


@pytest.mark.parametrize(
    ("value", "level"), [(None, logging.INFO), ("debug", logging.DEBUG), ("Warning", logging.WARNING), ("ERROR", 40)]
)
def test_log_levels_in_letters_of_either_case(value: str | None, level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMPRESSBENCH_LOG", raising=False)
    if value is not None:
        monkeypatch.setenv("COMPRESSBENCH_LOG", value)
    assert environment.log_level() == level


@pytest.mark.parametrize("value", ["", "loud", "notset", "10"])
def test_other_levels_are_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESSBENCH_LOG", value)
    with pytest.raises(UserError, match=f"COMPRESSBENCH_LOG is '{value}', which is no level; set it to one of DEBUG"):
        environment.log_level()


@pytest.mark.parametrize(("value", "threads"), [(None, 1), ("1", 1), ("8", 8), ("1024", 1024)])
def test_threads_are_one_unless_said(value: str | None, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMPRESSBENCH_THREADS", raising=False)
    if value is not None:
        monkeypatch.setenv("COMPRESSBENCH_THREADS", value)
    assert environment.threads() == threads


@pytest.mark.parametrize("value", ["", "0", "-1", "two", "1.5", "²", "１", "1025", " 2"])
def test_what_is_no_number_of_threads_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESSBENCH_THREADS", value)
    with pytest.raises(UserError, match=r"COMPRESSBENCH_THREADS is .*; set it to a whole number from 1 to 1024"):
        environment.threads()


def test_a_letter_that_a_stream_cannot_show_becomes_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    narrow = io.TextIOWrapper(raw, encoding="ascii", newline="\n")
    monkeypatch.setattr(sys, "stdout", narrow)
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # no stream of bytes: left alone
    environment.print_every_letter()
    print("größe 网", file=narrow, flush=True)
    assert raw.getvalue() == rb"gr\xf6\xdfe \u7f51" + b"\n"


def test_a_project_has_its_three_landmarks(tmp_path: Path) -> None:
    for missing in (["config", "methods", "data.dvc"], ["methods", "data.dvc"], ["data.dvc"]):
        with pytest.raises(UserError, match=f"it has no {' and no '.join(missing)}; change into the project's folder"):
            environment.require_project(tmp_path)
        (tmp_path / missing[0]).touch()
    environment.require_project(tmp_path)


@pytest.mark.parametrize(("value", "workers"), [(None, 4), ("0", 0), ("12", 12)])
def test_image_files_are_read_by_the_cores_unless_said(
    value: str | None, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COMPRESSBENCH_LOADER_WORKERS", raising=False)
    if value is not None:
        monkeypatch.setenv("COMPRESSBENCH_LOADER_WORKERS", value)
    assert environment.loader_workers(4) == workers
    assert environment.loader_workers(64) == (8 if value is None else workers)


@pytest.mark.parametrize("value", ["-1", "many", "257"])
def test_what_is_no_number_of_workers_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESSBENCH_LOADER_WORKERS", value)
    with pytest.raises(UserError, match="COMPRESSBENCH_LOADER_WORKERS"):
        environment.loader_workers(4)
