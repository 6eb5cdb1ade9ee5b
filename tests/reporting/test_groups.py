"""Names inside a group: levels, variants, references."""

from types import SimpleNamespace

import pytest

from compressbench.config import Setting
from compressbench.plan import Run
from compressbench.reporting.groups import Group, group_runs


@pytest.fixture
def groups(report: SimpleNamespace) -> dict[str, Group]:
    return {g.model: g for g in group_runs(report.runs, report.declarations)}


def test_settings_of_several_methods_share_a_level(groups: dict[str, Group]) -> None:
    levels = groups["plain_mini"].levels
    assert {levels["one_by_n", s].name for s in ("n4_p75", "n16_p75", "n16_plain_p75")} == {"p75"}
    assert levels["magnitude", "p75"] == levels["l1_filter", "p75"] == levels["random_blocks", "n4_p75"]
    assert groups["resnet8"].levels["intraq", "w4a4_bnloss"].name == "w4a4"


def test_a_level_is_declared_whatever_a_setting_is_called(groups: dict[str, Group]) -> None:
    settings = {"ptq_w3a3": Setting(level={"bits": (2, 2)}), "p90": Setting(level={"bits": (2, 2)}, variant="ptq")}
    declared = groups["resnet8"].declarations["lsq"].model_copy(update={"settings": settings})
    runs = tuple(Run("desk", "d", "m", "lsq", setting, 0) for setting in settings)
    group = Group("d", "m", runs, {"lsq": declared})
    assert {level.name for level in group.levels.values()} == {"w2a2"}
    assert (group.label("lsq", "p90"), group.series("lsq", "p90")) == ("2 bits, ptq", "LSQ, ptq")


def test_a_series_is_a_method_or_one_of_its_variants(groups: dict[str, Group]) -> None:
    plain = groups["plain_mini"]
    assert plain.series("one_by_n", "n16_plain_p90") == "1×N pattern, 1×16 plain"
    assert plain.series("one_by_n", "n16_plain_p75") == plain.series("one_by_n", "n16_plain_p90")
    assert groups["resnet_mini"].series("optg", "p95") == "OptG"


def test_groups_know_what_they_compare(groups: dict[str, Group]) -> None:
    assert groups["edsr_mini"].metric == "psnr" and groups["resnet8"].metric == "top1"
    assert groups["resnet8"].quantized and not groups["plain_mini"].quantized
    assert [m for m in groups["edsr_mini"].methods if groups["edsr_mini"].is_reference(m)] == ["bicubic", "dense"]
    assert (
        groups["plain_mini"].level_name("p90") == "90 % sparsity" and groups["resnet8"].level_name("w3a3") == "3 bits"
    )
