"""Tests of the plan: names of runs, seeds, which run is timed, and where a run is reported."""

from pathlib import Path

import pytest

from compressbench.config.discovery import files
from compressbench.errors import UserError
from compressbench.files import write_json
from compressbench.plan import FIRST_RUNS, Plan, Run, last_run, last_run_file, parse_run
from tests.conftest import ROOT


def test_a_seed_that_is_named_twice_runs_once() -> None:
    plan = Plan(ROOT, "smoke", ["snip"], [1, 0, 1])
    assert plan.seeds == (1, 0) and len(plan.runs) == len(set(plan.runs))


def test_run_names_round_trip() -> None:
    run = Run("smoke", "digits", "plain_mini", "toy", "half", 3)
    assert parse_run(run.name) == run
    with pytest.raises(UserError, match="is not a run"):
        parse_run("smoke/digits")


def test_one_latency_stands_for_networks_of_the_same_layers() -> None:
    plan = Plan(ROOT, "desk", ["udfc"], [0, 1])
    by_setting = {run.setting: run for run in plan.runs if run.model == "resnet14_conv" and run.seed == 0}
    ours, naive = by_setting["p30_w6"], by_setting["naive_p30_w6"]
    assert plan.timed[naive] == plan.timed[ours] == ours
    assert "latency" in plan.stages(ours) and "latency" not in plan.stages(naive)
    assert {run.seed for run in plan.timed} == {0}, "the scale times its first seed only"


def test_a_run_is_timed_itself_where_the_setting_that_stands_for_it_does_not_run() -> None:
    plan = Plan(ROOT, "paper", ["udfc"], [0])
    run = next(r for r in plan.runs if r.setting == "p30_w6")
    plan.declarations["udfc"] = plan.declarations["udfc"].model_copy(update={"latency_from": {"p30_w6": "w3"}})
    assert plan.timed[run] == run


@pytest.mark.parametrize("scale", ["smoke", "desk"])
def test_the_first_runs_are_of_one_pair_and_compare_methods_with_baselines(scale: str) -> None:
    plan = Plan(ROOT, scale)
    first = plan.first_runs
    assert len({run.pair for run in first}) == 1 and len(set(first)) == len({run.method for run in first}) == FIRST_RUNS
    assert set(first) <= set(plan.runs)
    about = [plan.declarations[run.method] for run in first]
    assert about[0].family == "dense" and not about[1].is_baseline and about[2].is_baseline
    assert Plan(ROOT, scale, ["snip"]).first_runs, "one method alone has a first run, too"
    assert Plan(ROOT, "latency").first_runs == []


SCALES = sorted(path.stem for path in (ROOT / "config").glob("*.yaml"))


CLAIMED = Plan(ROOT, "desk").scale.report_seeds


def test_what_a_method_cannot_compress_is_said_in_its_own_words() -> None:
    obstacles = Plan(ROOT, "desk", ["bnn", "magnitude", "lsq"], [0]).obstacles()
    assert {method for method, _ in obstacles} == {"bnn"}
    assert "binary" in obstacles["bnn", "photograph_crops/efficientnet_lite0"]
    assert ("bnn", "fashion_mnist/binary_resnet8") not in obstacles


def test_desk_and_latency_alone_claim_reports() -> None:
    claims = {scale for scale in SCALES if Plan(ROOT, scale).committed_report}
    assert claims == {"desk", "latency"} and len(CLAIMED) >= 2


@pytest.mark.parametrize(
    ("seeds", "methods", "folder"),
    [
        (CLAIMED, None, "reports"),
        (CLAIMED[::-1], list(files(ROOT)), "reports"),
        (None, None, "results/desk/report"),
        (CLAIMED[:1], None, "results/desk/report"),
        ((*CLAIMED, max(CLAIMED) + 1), None, "results/desk/report"),
        (CLAIMED, ["optg"], "results/desk/report"),
    ],
)
def test_reports_is_for_all_methods_with_exactly_the_seeds_that_it_claims(
    seeds: tuple[int, ...] | None, methods: list[str] | None, folder: str
) -> None:
    assert Plan(ROOT, "desk", methods, seeds).report_folder == Path(folder)


def test_reports_is_for_all_pairs() -> None:
    pairs = list(Plan(ROOT, "desk").scale.pairs)
    assert Plan(ROOT, "desk", None, CLAIMED, pairs[::-1]).report_folder == Path("reports")
    assert Plan(ROOT, "desk", None, CLAIMED, pairs[1:]).report_folder == Path("results/desk/report")


def test_the_seeds_of_a_scale_without_claim_do_not_matter() -> None:
    for scale in set(SCALES) - {"desk", "latency"}:
        assert Plan(ROOT, scale, seeds=CLAIMED).report_folder == Path("results", scale, "report")


def test_the_last_run_of_a_scale_is_what_it_was_restricted_to(tmp_path: Path) -> None:
    assert last_run(tmp_path, "smoke") == {}
    write_json(tmp_path / last_run_file("smoke"), {"scale": "smoke", "methods": ["snip"], "seeds": [1]})
    assert last_run(tmp_path, "smoke") == {"methods": ["snip"], "seeds": [1]}
    assert last_run(tmp_path, "desk") == {}
