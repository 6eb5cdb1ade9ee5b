"""Each kind of bad input ends early, with one sentence and exit code 2 (or Snakemake's 1), and without a traceback."""

import shutil
from pathlib import Path

import pytest
import yaml

from tests.conftest import run_module
from tests.pipeline.conftest import snakemake

pytestmark = pytest.mark.pipeline


def edit(path: Path, change) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["scale=huge"], "unknown scale 'huge'"),
        (["scale=smoke", "methods=[optgg]"], "unknown method 'optgg'"),
        (["scale=smoke", "seeds=[-1]"], "seeds"),
        (["scale=smoke", "sedes=[1]"], "sedes"),
    ],
)
def test_wrong_command_line_stops_before_any_job(project: Path, arguments: list[str], sentence: str) -> None:
    process = snakemake(project, "--config", *arguments)
    assert process.returncode != 0
    assert sentence in process.stdout + process.stderr
    assert not (project / "results").exists()


@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        (
            "config/smoke.yaml",
            lambda c: c["pairs"]["digits/plain_mini"].update(architecture="alexnet"),
            "pairs.digits/plain_mini.architecture",
        ),
        (
            "config/smoke.yaml",
            lambda c: c["pairs"]["digits/plain_mini"]["pretrain"].pop("lr"),
            "pairs.digits/plain_mini.pretrain.lr: Field required",
        ),
        ("config/smoke.yaml", lambda c: c["latency"].update(rounds=3), "latency.rounds"),
        ("methods/optg/config.yaml", lambda c: c["settings"]["p95"].update(sparsity=1.5), "sparsity"),
        ("methods/optg/config.yaml", lambda c: c.update(family="magic"), "family"),
    ],
)
def test_wrong_configuration_names_file_and_key_before_any_job(project: Path, file: str, change, sentence: str) -> None:
    edit(project / file, change)
    process = snakemake(project, "--config", "scale=smoke")
    output = process.stdout + process.stderr
    assert process.returncode != 0
    assert sentence in output and Path(file).parts[-2] in output
    assert not (project / "results").exists()


def test_unknown_dataset_is_named(project: Path) -> None:
    edit(
        project / "config/smoke.yaml",
        lambda c: c["pairs"].update({"mnist/plain_mini": c["pairs"]["digits/plain_mini"]}),
    )
    process = snakemake(project, "--config", "scale=smoke")
    assert process.returncode != 0 and "mnist" in process.stdout + process.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["compress", "smoke/digits/plain_mini/one_by_n/n9_p10/seed0"], "unknown setting 'n9_p10'"),
        (["compress", "smoke/digits/plain_mini"], "is not a run"),
        (["pretrain", "smoke", "digits", "alexnet", "0"], "is not a pair of config/smoke.yaml"),
        (["evaluate", "smoke/digits/plain_mini/one_by_n/n4_p75/seed0"], "does not exist; run the stage"),
    ],
)
def test_stage_commands_say_what_is_wrong(project: Path, arguments: list[str], sentence: str) -> None:
    process = run_module(project, *arguments)
    assert process.returncode == 2, process.stderr[-2000:]
    assert sentence in process.stderr and "Traceback" not in process.stderr


def test_results_folder_that_cannot_be_written(project: Path) -> None:
    (project / "results").write_text("a file where the folder should be", encoding="utf-8")
    process = run_module(project, "pretrain", "smoke", "digits", "plain_mini", "0")
    assert process.returncode == 2, process.stderr[-2000:]
    assert "results" in process.stderr and "Traceback" not in process.stderr


def test_full_disk_ends_with_one_sentence_and_keeps_finished_results(project: Path, tmp_path: Path) -> None:
    """/dev/full refuses every write, as a full disk does."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    finished = project / "results/smoke/digits/plain_mini/pretrain/seed5"
    finished.mkdir(parents=True)
    (finished / "model.json").write_text("{}", encoding="utf-8")
    script = (
        "import sys, compressbench.storage as s, compressbench.cli as c\n"
        "save = s.save_file\n"
        "s.save_file = lambda tensors, path: open('/dev/full', 'w', buffering=1).write('x' * 100 + chr(10))\n"
        "sys.argv = ['compressbench', 'pretrain', 'smoke', 'digits', 'plain_mini', '0']\n"
        "c.main()\n"
    )
    (project / "full.py").write_text(script, encoding="utf-8")
    process = run_module(project, module="full")
    assert process.returncode == 2, process.stderr[-2000:]
    assert "No space left on device" in process.stderr and "Traceback" not in process.stderr
    assert (finished / "model.json").read_text(encoding="utf-8") == "{}"


def test_truncated_data_is_named(project: Path, data_root: Path) -> None:
    (project / "data").unlink()
    shutil.copytree(data_root / "data", project / "data")
    victim = max((p for p in (project / "data/digits").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-50])
    process = run_module(project, "data")
    assert process.returncode == 2, process.stderr[-2000:]
    assert "digits" in process.stderr and "Traceback" not in process.stderr
