"""Tests of reading configuration: one sentence names the file and the key of the first mistake."""

from pathlib import Path

import pytest

from compressbench.config import Latency, load_scale, parse, read_yaml
from compressbench.errors import UserError


def test_the_first_wrong_key_is_named_with_its_value_and_the_number_of_others() -> None:
    with pytest.raises(UserError, match=r"^config/x\.yaml: key rounds: .* 30, got 3 \(1 more\); correct it there\.$"):
        parse(Latency, {"rounds": 3, "warmup": 0}, "config/x.yaml")


def test_a_file_that_is_no_mapping_is_named_as_a_whole() -> None:
    with pytest.raises(UserError, match=r"config/x\.yaml: key \(whole file\): "):
        parse(Latency, ["rounds"], "config/x.yaml")


@pytest.mark.parametrize("text", ["seeds: [0]\nseeds: [1]\n", "pairs:\n  - {lr: 1, lr: 2}\n"])
def test_a_repeated_key_is_refused_wherever_it_is(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"x\.yaml is not valid YAML: the key '(seeds|lr)'"):
        read_yaml(tmp_path / "x.yaml")


def test_an_empty_file_has_no_content_and_a_missing_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("", encoding="utf-8")
    assert read_yaml(tmp_path / "x.yaml") is None
    with pytest.raises(UserError, match=r"absent\.yaml"):
        read_yaml(tmp_path / "absent.yaml")


def test_without_any_scale_the_folder_has_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown scale 'desk'; config/ has: nothing\."):
        load_scale(tmp_path, "desk")
