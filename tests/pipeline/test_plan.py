"""The plan: its cost, its contents, and that a method is a folder."""

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from compressbench.data import versioning
from tests.conftest import ROOT, Command, copy_tree
from tests.pipeline.conftest import Smoke, snakemake
from tests.pipeline.dropped_in import drop_in

pytestmark = pytest.mark.pipeline


def test_a_dropped_in_folder_is_a_method(dropped_in: Path) -> None:
    report = dropped_in / "results/smoke/report"
    tables = "".join(p.read_text(encoding="utf-8") for p in (report / "tables").glob("*.md"))
    findings = "".join(p.read_text(encoding="utf-8") for p in report.rglob("findings.md"))
    assert "Toy" in tables
    assert "That a folder is enough." in findings


def test_one_method_is_a_target(project: Path) -> None:
    process = snakemake(project, "-n", "snip", "--config", "scale=smoke")
    output = process.stdout + process.stderr
    assert process.returncode == 0, output[-2000:]
    assert "compress" in output and "optg" not in output


def test_some_pairs_can_be_run_alone(project: Path) -> None:
    process = snakemake(project, "-n", "--config", "scale=smoke", "methods=[snip,dense]", "pairs=[digits/resnet_mini]")
    output = process.stdout + process.stderr
    assert process.returncode == 0, output[-2000:]
    models = set(re.findall(r"model=(\w+)", output))
    assert models == {"resnet_mini"} and "results/smoke/report/" in output


def test_planning_18_methods_with_4_settings_and_3_seeds_takes_under_15_seconds(project: Path) -> None:
    for i in range(18):
        drop_in(project, f"toy{i}", ["a", "b", "c", "d"])
    methods = ",".join(f"toy{i}" for i in range(18))
    start = time.monotonic()
    process = snakemake(project, "-n", "--quiet", "--config", "scale=smoke", f"methods=[{methods}]", "seeds=[0,1,2]")
    seconds = time.monotonic() - start
    assert process.returncode == 0, process.stderr[-2000:]
    assert seconds < 15


SMALL = ("magnitude", "snip", "vit", "minmax_sr")  # from the dense model, from scratch, with throughput, other data


@pytest.fixture
def finished(smoke: Smoke, tmp_path: Path, data_root: Path) -> Path:
    """A project with all results and without Snakemake's records of how they came about."""
    root = copy_tree(tmp_path, data_root)
    shutil.copytree(smoke.root / "results", root / "results")  # with the times of the files
    return root


def repeated(root: Path) -> set[str]:
    """What Snakemake would run of SMALL: names of rules, with the model, or method/model."""
    before = {path: path.stat().st_mtime_ns for path in (root / "results").rglob("*")}
    process = snakemake(root, "-n", "--config", "scale=smoke", f"methods=[{','.join(SMALL)}]")
    assert process.returncode == 0, process.stderr[-2000:]
    assert before == {path: path.stat().st_mtime_ns for path in (root / "results").rglob("*")}, "a plan changes nothing"
    found = set()
    for job in re.split(r"^(?:local)?rule ", process.stdout + process.stderr, flags=re.MULTILINE)[1:]:
        names = dict(
            re.findall(r"(\w+)=([^,\s]+)", (re.findall(r"^    wildcards: (.*)$", job, re.MULTILINE) or [""])[0])
        )
        found.add(f"{job.split(':')[0]} {'/'.join(names[key] for key in ('method', 'model') if key in names)}".strip())
    return found


def stages_of(name: str, *stages: str) -> set[str]:
    return {f"{stage} {name}" for stage in stages}


WHOLE = ("compress", "finetune", "evaluate", "latency")
PAGES = {"report", "page", "all"}
SUMMARY = {*PAGES, "tracked"}
TIMED = ("magnitude/resnet_mini", "magnitude/plain_mini", "snip/resnet_mini", "vit/vit_mini", "minmax_sr/edsr_mini")


def test_without_records_of_snakemake_there_is_nothing_to_do(finished: Path) -> None:
    assert repeated(finished) == set()


@pytest.mark.parametrize(
    ("file", "change", "expected"),
    [
        (
            "methods/baselines/snip/config.yaml",
            lambda c: c["settings"]["p95"].update(sparsity=0.9),
            stages_of("snip/resnet_mini", "compress", "evaluate", "latency") | SUMMARY,
        ),
        ("methods/baselines/vit/config.yaml", lambda c: c.update(batches=[50]), {"latency vit/vit_mini"} | SUMMARY),
        (
            "config/smoke.yaml",
            lambda c: c["pairs"]["digits/resnet_mini"]["pretrain"].update(lr=0.05),
            {"pretrain resnet_mini"} | stages_of("magnitude/resnet_mini", *WHOLE) | SUMMARY,
        ),
        (
            "config/smoke.yaml",
            lambda c: c["latency"].update(rounds=31),
            {f"latency {name}" for name in TIMED} | SUMMARY,
        ),
        (
            "data.dvc",
            lambda c: repin(c, "photographs/china.jpg"),
            {"data", "pretrain edsr_mini"} | stages_of("minmax_sr/edsr_mini", *WHOLE) | SUMMARY,
        ),
        ("methods/baselines/snip/config.yaml", lambda c: c.update(title="Another title"), PAGES),
        (
            "methods/baselines/snip/config.yaml",
            lambda c: c["settings"]["p95"].update(variant="as drawn"),
            PAGES,
        ),
    ],
)
def test_a_change_repeats_what_reads_it_and_nothing_else(
    finished: Path, file: str, change: Callable[[dict], object], expected: set[str]
) -> None:
    content = yaml.safe_load((finished / file).read_text(encoding="utf-8"))
    change(content)
    (finished / file).write_text(yaml.safe_dump(content), encoding="utf-8")
    assert repeated(finished) == expected


def repin(pin: dict, name: str) -> None:
    """data.dvc after one file has changed."""
    pin["meta"]["files"][name] = "0" * 32
    pin["outs"][0]["md5"] = versioning.folder_hash(pin["meta"]["files"])


@pytest.mark.parametrize("name", ["README.md", "published.csv"])
def test_text_and_published_numbers_repeat_the_report(finished: Path, name: str) -> None:
    with (finished / "methods/baselines/snip" / name).open("a", encoding="utf-8") as file:
        file.write("\n")
    assert repeated(finished) == PAGES


def test_a_result_that_something_else_made_is_repeated(finished: Path) -> None:
    """Another checkout's result, with a recent date."""
    file = next(finished.glob("results/smoke/digits/resnet_mini/snip/p95/seed0/evaluate/run.json"))
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | {"configuration_hash": "0"}), encoding="utf-8")
    assert repeated(finished) == {"evaluate snip/resnet_mini"} | SUMMARY


def test_what_is_outdated_is_found_behind_what_runs_anyway(finished: Path) -> None:
    """Snakemake passes over what lies behind a job that runs, where only `ancient` files connect the two."""
    shutil.rmtree(finished / "results/data")
    settings = finished / "methods/baselines/snip/config.yaml"
    settings.write_text(settings.read_text(encoding="utf-8").replace("0.95", "0.94"), encoding="utf-8")
    next(finished.glob("results/smoke/digits/vit_mini/vit/fine/seed0/evaluate/metrics.json")).unlink()
    expected = stages_of("snip/resnet_mini", "compress", "evaluate", "latency") | {"evaluate vit/vit_mini"} | SUMMARY
    assert repeated(finished) == expected | {"data"}


def test_every_rule_logs_and_claims_resources() -> None:
    for file in (ROOT / "workflow/rules").glob("*.smk"):
        if file.stem in ("common", "methods"):
            continue
        text = file.read_text(encoding="utf-8")
        for keyword in ("log:", "threads:", "resources:", "shell:"):
            rules = re.findall(r"^rule ", text, re.MULTILINE)
            assert len(rules) == text.count(f"    {keyword}") > 0, f"{file.name}: {keyword}"


def test_validate_by_hand(project: Path, cli: Command) -> None:
    process = cli(project, "validate", "smoke")
    assert process.returncode == 0 and "all valid" in process.stdout
