"""The command line: lists of names, and errors as one sentence with exit code 2. Its commands: tests/pipeline."""

import errno
import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from compressbench import cli
from compressbench.errors import UserError


def test_names_are_separated_by_commas_and_count_once() -> None:
    assert cli.listed("b, a,,b ,c", "--methods") == ["b", "a", "c"]
    assert cli.listed("", "--methods") is None
    with pytest.raises(UserError, match="--methods names nothing; write names with commas between them"):
        cli.listed(" , ", "--methods")


def raising(error: Exception) -> Callable[[], None]:
    def app() -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UserError("config/smoke.yaml: key seeds is wrong; correct it."), "config/smoke.yaml: key seeds is wrong; correct it."),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full; make room and start again"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full; make room and start again"),
    ],
)  # fmt: skip
def test_bad_input_and_a_full_disk_are_one_sentence(
    error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "app", raising(error))
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr()
    assert end.value.code == 2 and said.err.startswith(f"error: {sentence}") and said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "No such file"), RuntimeError("a bug")])
def test_every_other_error_shows_where_it_is(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "app", raising(error))
    with pytest.raises(type(error)):
        cli.main()


def test_the_exit_code_is_told_also_where_the_sentence_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cli, "app", raising(UserError("wrong")))
    monkeypatch.setattr(sys, "stderr", Full())
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2


def test_a_log_level_that_is_none_ends_like_any_bad_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMPRESSBENCH_LOG", "loud")
    monkeypatch.setattr(cli, "app", raising(RuntimeError("too late")))
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2 and "COMPRESSBENCH_LOG is 'loud'" in capsys.readouterr().err


def test_a_command_asks_first_whether_it_is_in_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.app, ["validate", "smoke"])
    assert isinstance(result.exception, UserError) and "is no compressbench project" in str(result.exception)
    assert CliRunner().invoke(cli.app, ["validate", "--help"]).exit_code == 0
