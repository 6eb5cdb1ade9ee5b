"""Levels: what a declaration says, and the words that follow from it."""

from typing import Any

import pytest

from compressbench.config import Declaration, MethodConfig, parse
from compressbench.config.levels import KINDS, NONE, UNCHANGED, level, point
from compressbench.errors import UserError
from compressbench.method import Method, loading
from compressbench.plan import Plan
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("kind", "values", "name", "label", "alone"),
    [
        ("sparsity", [0.9], "p90", "90 %", "90 % sparsity"),
        ("sparsity", [0.965], "p96.5", "96.5 %", "96.5 % sparsity"),
        ("sparsity", [60 / 128], "p46.875", "46.9 %", "46.9 % sparsity"),
        ("filters", [0.3], "f30", "30 %", "30 % of the filters"),
        ("macs_reduction", [0.29], "m29", "MACs −29 %", "MACs −29 %"),
        ("bits", [4, 4], "w4a4", "4 bits", "4 bits"),
        ("bits", [1, 1], "w1a1", "1 bit", "1 bit"),
        ("bits", [6, 8], "w6a8", "6/8 bits", "6/8 bits"),
        ("weight_bits", [6], "w6", "6-bit weights", "6-bit weights"),
        ("weight_bits", [2, 6], "w2_6", "2/6-bit weights", "2/6-bit weights"),
        ("shots", [5], "shots5", "5 shots", "5 shots"),
    ],
)
def test_names_and_words_follow_from_kind_and_numbers(
    kind: str, values: list[float], name: str, label: str, alone: str
) -> None:
    found = level(kind, *values)
    assert (found.name, found.label, found.alone) == (name, label, alone)
    assert found.values == tuple(values)


def declared(level: object, **settings: dict[str, Any]) -> Declaration:
    content = {
        "title": "t", "paper": "p", "family": "filter", "task": ["classification"], "stages": ["compress"],
        "starts_from": "dense", "level": level, "settings": settings,
    }  # fmt: skip
    return parse(Declaration, content, "here")


def test_the_number_stands_once_in_the_hyperparameters() -> None:
    found = declared(
        {"sparsity": "sparsity"}, p90={"sparsity": 0.9}, odd_name={"sparsity": 0.9, "variant": "restricted"}
    )
    assert found.level_of("p90") == found.level_of("odd_name") == level("sparsity", 0.9)
    assert (found.label_of("p90"), found.variant_of("p90")) == ("90 %", "")
    assert (found.label_of("odd_name"), found.variant_of("odd_name")) == ("restricted, 90 %", "restricted")
    assert found.settings["odd_name"].hyperparameters == {"sparsity": 0.9}


def test_a_setting_may_state_its_level_or_have_none() -> None:
    found = declared(
        {"sparsity": "sparsity"}, nm24={"level": {"sparsity": 0.5}, "variant": "2:4", "n": 2, "m": 4}, other={}
    )
    assert found.level_of("nm24") == level("sparsity", 0.5) and found.label_of("nm24") == "2:4, 50 %"
    assert found.level_of("other") == NONE and found.label_of("other") == "other"


def test_of_several_kinds_the_first_is_the_level_and_the_others_are_words_of_the_variant() -> None:
    kinds = {"filters": "ratio", "weight_bits": "bits", "activation_bits": "activations"}
    found = declared(
        kinds, both={"ratio": 0.3, "bits": 6, "activations": None, "variant": "naive"}, bits={"ratio": 0, "bits": 6},
        filters={"ratio": 0.3, "bits": 32}, all={"ratio": 0.3, "bits": 6, "activations": 8}, nothing={"ratio": 0, "bits": 32},
    )  # fmt: skip
    assert found.level_of("both") == found.level_of("filters") == level("filters", 0.3)
    assert found.level_of("bits") == level("weight_bits", 6)
    assert found.level_of("nothing") == UNCHANGED
    words = {name: (found.label_of(name), found.variant_of(name)) for name in found.settings}
    assert words == {
        "both": ("naive, 30 %, 6 bits", "naive, 6 bits"),
        "bits": ("6-bit weights", ""),
        "filters": ("30 %", ""),
        "all": ("30 %, 6 bits, 8-bit activations", "6 bits, 8-bit activations"),
        "nothing": ("unchanged network", ""),
    }


def test_a_width_stands_before_the_variant_and_a_share_behind_it() -> None:
    found = declared({"bits": ["w", "a"]}, real={"w": 4, "a": 4, "variant": "real images"})
    assert found.label_of("real") == "4 bits, real images" and found.variant_of("real") == "real images"


@pytest.mark.parametrize(
    ("kinds", "setting", "message"),
    [
        ({"sparsty": "sparsity"}, {}, r"key level\.sparsty.*no kind of level; known: sparsity, "),
        ({"sparsity": "sparsity"}, {"sparsity": 90}, r"settings\.s: the level sparsity needs fractions from 0 to 1"),
        ({"sparsity": "sparsity"}, {"sparsity": "high"}, r"settings\.s: the level sparsity needs fractions"),
        ({"bits": ["w", "a"]}, {"w": 4}, r"settings\.s: the level bits has 2 number\(s\)"),
        ({}, {"level": {"depth": 3}}, r"key settings\.s\.level\.depth.*no kind of level"),
        ({}, {"variant": 3}, r"key settings\.s\.variant"),
    ],
)
def test_what_is_no_level_names_the_key(kinds: dict, setting: dict, message: str) -> None:
    with pytest.raises(UserError, match=f"here: .*{message}"):
        declared(kinds, s=setting)


class Config(MethodConfig):
    ratio: float = 0.3
    bits: int | None = None


class Toy(Method):
    Config = Config


@pytest.mark.parametrize(
    ("kinds", "setting", "message"),
    [
        (
            {"filters": "ratio"},
            {},
            r"its level \(filters\) is the hyper-parameter ratio, which the setting leaves at 0.3; write",
        ),
        ({"filters": "rate"}, {}, r"key level\.filters: the method has no hyper-parameter 'rate'; it has: ratio, bits"),
        ({"filters": "ratio"}, {"ratio": 0.5}, None),
        ({"weight_bits": "bits"}, {}, None),  # the default leaves the network as it is
        ({"weight_bits": "bits", "filters": "ratio"}, {"bits": 4}, None),
        ({"filters": "ratio"}, {"level": {"filters": 0.3}}, None),
    ],
)
def test_a_level_does_not_hide_in_a_default(
    kinds: dict, setting: dict, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "declaration", lambda root, name: declared(kinds, s=setting))
    monkeypatch.setattr(loading, "method_class", lambda root, name: Toy)
    if message is None:
        assert isinstance(loading.resolve(ROOT, "toy", "s", "desk"), Config)
        return
    with pytest.raises(UserError, match=message):
        loading.resolve(ROOT, "toy", "s", "desk")


def test_operating_points_are_levels_of_their_own_kind() -> None:
    assert point("t3", "0.3 MMACs").alone == "0.3 MMACs" and point("t3", "").kind not in KINDS


@pytest.mark.parametrize("scale", ["smoke", "desk", "paper"])
def test_words_tell_the_settings_of_a_method_on_one_network_apart(scale: str) -> None:
    plan = Plan(ROOT, scale, seeds=[0])
    words = [(run.pair, run.method, plan.declarations[run.method].label_of(run.setting)) for run in plan.runs]
    assert len(words) == len(set(words)) > 30
