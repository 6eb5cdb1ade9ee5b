"""Tests of run.json: what it records, and whether a result is up to date."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import compressbench
from compressbench.plan import provenance
from tests.conftest import ROOT
from tests.plan.jobs import COMPRESS, PRETRAIN


def test_the_workflow_tells_its_jobs_the_version_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(provenance.VERSION_VARIABLE, "abc-dirty")
    assert provenance.code_version(ROOT) == "abc-dirty"
    monkeypatch.delenv(provenance.VERSION_VARIABLE)
    assert provenance.code_version(ROOT) not in ("", "abc-dirty")


def test_without_git_the_version_of_the_package_stands_for_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(provenance.VERSION_VARIABLE, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.code_version(tmp_path) == compressbench.__version__


def test_a_record_has_the_configuration_the_inputs_and_the_versions() -> None:
    record = provenance.record(ROOT, COMPRESS, threads=2, seconds=1.23456)
    assert record["run"] == COMPRESS.tags and record["configuration"] == COMPRESS.parameters
    assert record["configuration_hash"] == COMPRESS.digest and record["inputs"] == {"dense": PRETRAIN.digest}
    assert (record["seed"], record["data_hash"], record["threads"], record["wall_seconds"]) == (3, "1", 2, 1.235)
    assert {"python", "torch", "numpy"} <= record["packages"].keys()
    assert record["peak_memory_mb"] > 1


def test_a_result_is_current_while_its_job_is_the_same_and_its_files_are_there(tmp_path: Path) -> None:
    folder = tmp_path / COMPRESS.folder
    folder.mkdir(parents=True)
    for file in COMPRESS.results:
        (folder / file).touch()
    assert not provenance.is_current(tmp_path, COMPRESS)
    content = json.dumps({"configuration_hash": COMPRESS.digest})
    (folder / provenance.FILE).write_text(content, encoding="utf-8")
    assert provenance.is_current(tmp_path, COMPRESS)
    assert not provenance.is_current(tmp_path, replace(COMPRESS, data_hash="2"))
    (folder / COMPRESS.results[0]).unlink()
    assert not provenance.is_current(tmp_path, COMPRESS)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b"{}"])
def test_a_damaged_record_is_no_result(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / COMPRESS.folder
    folder.mkdir(parents=True)
    for file in COMPRESS.results:
        (folder / file).touch()
    (folder / provenance.FILE).write_bytes(content)
    assert not provenance.is_current(tmp_path, COMPRESS)
