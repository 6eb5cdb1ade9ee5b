"""Where the files of data sets are looked for."""

import socket
from pathlib import Path

import pytest

from compressbench import data
from compressbench.data.files import external_folder, giving_up_after, wheel_folder
from compressbench.errors import UserError


def test_large_data_sets_lie_below_data_or_where_the_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMPRESSBENCH_DATA", raising=False)
    assert external_folder(Path("data")) == Path("data/external")
    monkeypatch.setenv("COMPRESSBENCH_DATA", "/mnt/sets")
    assert external_folder(Path("data")) == Path("/mnt/sets")


def test_files_of_an_installed_package_are_found_without_importing_it() -> None:
    assert (wheel_folder("sklearn", "datasets", "data") / "digits.csv.gz").is_file()
    with pytest.raises(UserError, match="package no_such_package is not installed"):
        wheel_folder("no_such_package", "data")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "div2k"])
def test_absent_external_data_names_the_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESSBENCH_DATA", str(tmp_path))
    with pytest.raises(UserError, match=str(tmp_path)):
        data.load(name, tmp_path / "data")


def test_missing_cub_and_cifar_say_what_to_do(tmp_path: Path) -> None:
    for name in ("cub200_sessions", "cifar100_sessions"):
        with pytest.raises(UserError, match="COMPRESSBENCH_DATA"):
            data.load(name, tmp_path)


def test_a_silent_download_gives_up_and_others_are_as_patient_as_before() -> None:
    before = socket.getdefaulttimeout()
    with pytest.raises(TimeoutError), giving_up_after(0.05), socket.create_server(("127.0.0.1", 0)) as silent:
        assert socket.getdefaulttimeout() == 0.05
        with socket.create_connection(silent.getsockname()) as connection:
            connection.recv(1)
    assert socket.getdefaulttimeout() == before
