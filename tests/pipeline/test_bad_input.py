"""Each kind of bad input ends early, with one sentence and exit code 2 (or Snakemake's 1), and without a traceback."""

import shutil
from pathlib import Path

import pytest
import yaml
from torch import nn

from compressbench import storage
from tests.conftest import ROOT, Command, run_module
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
        (["scale=smoke", "pairs=[digits/alexnet]"], "pairs: 'digits/alexnet' is not a pair of config/smoke.yaml"),
        (["scale=smoke", "seeds=[-1]"], "seeds"),
        (["scale=smoke", "sedes=[1]"], "sedes"),
        (["scale=smoke", "seeds=[a]"], "seeds"),
        (["scale=smoke", "seeds=3"], "seeds"),
        (["scale=smoke", "methods=optg"], "methods"),
        (["scale=smoke", "methods=[]"], "methods"),
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
        (
            "config/smoke.yaml",
            lambda c: c["latency"]["runtimes"].append("tvm"),
            "latency.runtimes: unknown runtime 'tvm'; choose one of compressbench, onnxruntime,",
        ),
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
        lambda c: (
            c["pairs"].update({"mnist/plain_mini": c["pairs"]["digits/plain_mini"]}),
            c["comparisons"]["blocks"].append("mnist/plain_mini"),
        ),
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
        (["evaluate", "smoke/digits/plain_mini/one_by_n/n9_p10/seed0"], "unknown setting 'n9_p10'"),
        (["latency", "smoke/digits/plain_mini/optgg/p95/seed0"], "unknown method 'optgg'"),
        (["synthesize", "smoke/digits/plain_mini/optg/p95/seed0"], "optg has no stage synthesize; it has: compress"),
        (["compress", "smoke/digits/alexnet/optg/p95/seed0"], "is not a pair of config/smoke.yaml"),
        (["compress", "smoke/digits/plain_mini/optg/p95/seed²"], "is not a run"),
        (["compress", "huge/digits/plain_mini/optg/p95/seed0"], "unknown scale 'huge'"),
        (["pretrain", "huge", "digits", "plain_mini", "0"], "unknown scale 'huge'"),
        (["validate", "huge"], "unknown scale 'huge'"),
        (["validate", "../config/smoke"], "unknown scale"),
        (["report", "huge", "out"], "unknown scale 'huge'"),
        (["report", "smoke", "out", "--methods", ","], "--methods names nothing"),
        (["report", "smoke", "out", "--methods", "optgg"], "unknown method 'optgg'"),
        (["report", "smoke", "out", "--seeds", "a"], "'a' is not a seed"),
        (
            ["report", "smoke", "out", "--pairs", "digits/alexnet"],
            "'digits/alexnet' is not a pair of config/smoke.yaml",
        ),
        (["report", "smoke", "out", "--seeds", " , "], "--seeds names nothing"),
        (["report", "smoke", "data.dvc"], "cannot write"),
        (["published-counts", "data.dvc/counts.json", "--methods", "dense"], "cannot write in the folder data.dvc"),
        (["published-counts", "config", "--methods", "dense"], "cannot write config"),
        (["published-counts", "counts.json", "--methods", "optgg"], "unknown method 'optgg'"),
        (["bench-kernels", "--networks", "AlexNet"], "unknown network 'AlexNet'"),
        (["bench-kernels", "--networks", ","], "--networks names nothing"),
        (["deployment", "latency", "resnet_50", "1", "0", "--methods", "optgg"], "unknown method 'optgg'"),
        (
            ["deployment", "latency", "resnet_5", "1", "0", "--methods", "optg"],
            "no method deploys anything on 'resnet_5'",
        ),
        (
            ["deployment", "latency", "resnet_50", "1", "1", "--methods", "optg"],
            "process0.json does not exist; run the stage that writes it first",
        ),
    ],
)
def test_stage_commands_say_what_is_wrong(project: Path, cli: Command, arguments: list[str], sentence: str) -> None:
    process = cli(project, *arguments)
    assert process.returncode == 2, process.stderr[-2000:]
    assert sentence in process.stderr and "Traceback" not in process.stderr
    assert process.stderr.strip().splitlines()[-1].startswith("error: ")


def test_facts_make_their_folder(project: Path, cli: Command) -> None:
    process = cli(project, "published-counts", "a/new/folder/counts.json", "--methods", "dense")
    assert process.returncode == 0 and (project / "a/new/folder/counts.json").exists()


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("COMPRESSBENCH_LOG", "loud", "COMPRESSBENCH_LOG is 'loud', which is no level; set it to one of DEBUG"),
        ("COMPRESSBENCH_LOG", "", "COMPRESSBENCH_LOG is ''"),
        *(
            ("COMPRESSBENCH_THREADS", v, f"COMPRESSBENCH_THREADS is {v!r}; set it")
            for v in ("", "0", "-1", "two", "1.5", "²")
        ),
    ],
)
def test_environment_variables_that_cannot_be_used_are_named(
    project: Path, cli: Command, variable: str, value: str, sentence: str
) -> None:
    process = cli(project, "pretrain", "smoke", "digits", "plain_mini", "0", env={variable: value})
    assert process.returncode == 2, process.stderr[-2000:]
    assert sentence in process.stderr and "Traceback" not in process.stderr
    assert not (project / "results").exists()


@pytest.mark.parametrize("level", ["debug", "Warning", "ERROR"])
def test_log_levels_may_be_written_in_either_case(project: Path, cli: Command, level: str) -> None:
    assert cli(project, "validate", "smoke", env={"COMPRESSBENCH_LOG": level}).returncode == 0


def test_debugging_shows_where_an_error_was_noticed(project: Path, cli: Command) -> None:
    process = cli(project, "validate", "huge", env={"COMPRESSBENCH_LOG": "debug"})
    assert process.returncode == 2 and "Traceback" in process.stderr and "error: unknown scale" in process.stderr


STAGES = ("synthesize", "compress", "finetune", "evaluate", "latency")
COMMANDS = [
    ["data"], ["tracking"], ["validate", "smoke"], ["pretrain", "smoke", "digits", "plain_mini", "0"],
    *([stage, "smoke/digits/plain_mini/optg/p95/seed0"] for stage in STAGES),
    ["bench-kernels"], ["published-counts", "counts.json"], ["report", "smoke", "out"],
    ["report-folder", "smoke"], ["verdict", "smoke"], ["ui"], ["unlock"], ["quotes"], ["rehearsal-data", "images"],
    ["export", "smoke/digits/plain_mini/optg/p95/seed0"], ["deployment", "latency", "resnet_50", "1", "0"],
    ["deployments-report", "latency", "out"], ["page"], ["snakemake", "-n"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0])
def test_outside_of_a_project_nothing_is_written_or_fetched(tmp_path: Path, cli: Command, arguments: list[str]) -> None:
    process = cli(tmp_path, *arguments, env={"PYTHONPATH": str(ROOT)})
    assert process.returncode == 2, process.stderr[-2000:]
    assert f"{tmp_path} is no compressbench project" in process.stderr and "Traceback" not in process.stderr
    assert list(tmp_path.iterdir()) == []


def test_every_command_needs_a_project() -> None:
    from compressbench.cli import app

    assert {(c.name or c.callback.__name__).replace("_", "-") for c in app.registered_commands} == {
        c[0] for c in COMMANDS
    }


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("config/smoke.yaml", b"seeds: [0\n", "config/smoke.yaml is not valid YAML"),
        ("config/smoke.yaml", b"seeds:\n\t- 0\n", "config/smoke.yaml is not valid YAML"),
        ("config/smoke.yaml", b"", "config/smoke.yaml: key"),
        ("config/smoke.yaml", b"- 1\n", "config/smoke.yaml: key"),
        ("config/smoke.yaml", b"seeds: [0]\nseeds: [1]\n", "the key 'seeds' occurs twice"),
        ("config/smoke.yaml", b"# \xe9\nseeds: [0]\n", "config/smoke.yaml is not UTF-8 text"),
        ("config/smoke.yaml", b"seeds: *unknown\n", "config/smoke.yaml is not valid YAML"),
        ("config/smoke.yaml", b"seeds: !!python/object:os.system [0]\n", "config/smoke.yaml is not valid YAML"),
        ("config/smoke.yaml", None, "cannot read config/smoke.yaml: Is a directory"),
        ("methods/optg/config.yaml", b"title: a\n\tpaper: b\n", "methods/optg/config.yaml is not valid YAML"),
        ("methods/optg/config.yaml", b"title: OptG\npaper: a\ntitle: OptG\n", "the key 'title' occurs twice"),
    ],
)
def test_files_that_are_no_configuration_are_named(
    project: Path, cli: Command, file: str, content: bytes | None, sentence: str
) -> None:
    (project / file).unlink()
    if content is None:
        (project / file).mkdir()
    else:
        (project / file).write_bytes(content)
    process = cli(project, "validate", "smoke")
    assert process.returncode == 2, process.stderr[-2000:]
    assert sentence in process.stderr and "Traceback" not in process.stderr


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [("config.yaml", "methods/optg has no config.yaml"), ("method.py", "methods/optg/method.py does not exist")],
)
def test_method_folder_that_lacks_a_file(project: Path, cli: Command, missing: str, sentence: str) -> None:
    (project / "methods/optg" / missing).unlink()
    process = cli(project, "compress", "smoke/digits/plain_mini/optg/p95/seed0")
    assert process.returncode == 2, process.stderr[-2000:]
    assert sentence in process.stderr and "Traceback" not in process.stderr


def test_a_network_that_puts_out_nan_is_named_and_gets_no_quality(project: Path, cli: Command) -> None:
    run = "smoke/digits/plain_mini/dense/checkpoint/seed0"
    for arguments in (["pretrain", "smoke", "digits", "plain_mini", "0"], ["compress", run]):
        assert cli(project, *arguments).returncode == 0
    folder = project / "results" / run / "compress"
    model = storage.load_model(folder)
    nn.init.constant_(model.classifier.bias, float("nan"))
    storage.save_model(model, folder)
    process = cli(project, "evaluate", run)
    assert process.returncode == 2, process.stderr[-2000:]
    assert f"{run}/evaluate: plain puts out NaN or infinity for" in process.stderr and "Traceback" not in process.stderr
    assert not (folder.parent / "evaluate" / "metrics.json").exists()


def test_results_folder_that_cannot_be_written(project: Path, cli: Command) -> None:
    (project / "results").write_text("a file where the folder should be", encoding="utf-8")
    process = cli(project, "pretrain", "smoke", "digits", "plain_mini", "0")
    assert process.returncode == 2, process.stderr[-2000:]
    assert "results" in process.stderr and "Traceback" not in process.stderr


def test_full_disk_ends_with_one_sentence_and_keeps_finished_results(project: Path) -> None:
    """The trained model meets a disk that refuses long files: the real writer, and the error of the real system."""
    finished = project / "results/smoke/digits/plain_mini/pretrain/seed5"
    finished.mkdir(parents=True)
    (finished / "model.json").write_text("{}", encoding="utf-8")
    script = (
        "import resource, sys, compressbench.storage as s, compressbench.cli as c\n"
        "save = s.save_model\n"
        "s.save_model = lambda *a: (resource.setrlimit(resource.RLIMIT_FSIZE, (1000, -1)), save(*a))\n"
        "sys.argv = ['compressbench', 'pretrain', 'smoke', 'digits', 'plain_mini', '0']\n"
        "c.main()\n"
    )
    (project / "full.py").write_text(script, encoding="utf-8")
    process = run_module(project, module="full")
    assert process.returncode == 2, process.stderr[-2000:]
    assert "model.safetensors: File too large; make room." in process.stderr and "Traceback" not in process.stderr
    assert (finished / "model.json").read_text(encoding="utf-8") == "{}"
    assert not (project / "results/smoke/digits/plain_mini/pretrain/seed0/model.safetensors").exists()


def test_truncated_data_is_named(project: Path, cli: Command, data_root: Path) -> None:
    (project / "data").unlink()
    shutil.copytree(data_root / "data", project / "data")
    victim = max((p for p in (project / "data/digits").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-50])
    process = cli(project, "data")
    assert process.returncode == 2, process.stderr[-2000:]
    assert "digits" in process.stderr and "Traceback" not in process.stderr
