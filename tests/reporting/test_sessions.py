"""Class-incremental learning session by session, on results that were made up."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from compressbench.config import Declaration
from compressbench.plan import Run
from compressbench.reporting import SEEDS as SEEDS_TABLE
from compressbench.reporting import outputs, write
from compressbench.reporting.seeds import read_seeds

SEEDS, DRAWS, CLASSES = (0, 1), 3, (6, 8, 10)
SETTINGS = {"shots5": {}, "shots5_dense": {"variant": "dense form"}}
HEAD = {"shots5": {}, "shots5_head": {"variant": "head only"}}
# name: (title, baseline, settings, accuracy on the old and on the new classes after sessions 0, 1, 2)
METHODS = {
    "lec_net": ("LEC-Net", False, SETTINGS, [(93, 93), (75, 55), (55, 45)]),
    "session_fine_tuning": ("Fine-tuning only", True, HEAD, [(93, 93), (20, 95), (5, 97)]),
    "nearest_class_mean": ("Nearest class mean", True, {"shots5": {}}, [(92, 92), (84, 70), (78, 60)]),
}


def declared(name: str) -> Declaration:
    title, baseline, settings, _ = METHODS[name]
    content = {
        "title": title, "paper": "none", "family": "incremental", "task": ["class_incremental"], "stages": ["compress"],
        "starts_from": "dense", "level": {"shots": 5}, "settings": settings,
    }  # fmt: skip
    package = f"methods.baselines.{name}" if baseline else f"methods.{name}"
    return Declaration.model_validate(content).model_copy(update={"package": package})


def write_results(root: Path, run: Run) -> None:
    rng = np.random.default_rng([run.seed, *map(ord, run.method)])
    rows = []
    for draw in range(DRAWS):
        first = 0.0
        for session, (old, new) in enumerate(METHODS[run.method][3]):
            old, new = old + rng.normal(0, 4), new + rng.normal(0, 6)
            weight = 1 if session == 0 else (CLASSES[session] - 2) / CLASSES[session]
            first = first or old
            lost = {"old": old, "forgetting": first - old} if session else {"old": None, "forgetting": None}
            accuracy = {"accuracy": weight * old + (1 - weight) * new, "new": new}
            rows.append(
                {"draw": draw, "session": session, "classes": CLASSES[session], "by_session": []} | accuracy | lost
            )
    top1 = float(np.mean([r["accuracy"] for r in rows if r["session"] == 2]))
    params = 70_000 - 2_000 * (run.setting == "shots5")
    costs = dict.fromkeys(("params", "weights", "kept_weights"), params)
    costs |= {"macs": 1.1e6, "dense_macs": 1.1e6, "bit_operations": 1e9, "stored_bytes": 4 * params}
    path = root / run.folder("evaluate").relative_to("results") / "metrics.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"quality": {"top1": top1, "sessions": rows}} | costs), encoding="utf-8")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    root = tmp_path_factory.mktemp("sessions")
    declarations = {name: declared(name) for name in METHODS}
    runs = [
        Run("desk", "fashion_mnist_sessions", "plain_growing", name, setting, seed)
        for name, (_, _, settings, _) in METHODS.items()
        for setting in settings
        for seed in SEEDS
    ]
    for run in runs:
        write_results(root / "results", run)
    written = write(root / "results", "desk", runs, declarations, root / "methods", root / "out")
    return SimpleNamespace(root=root, runs=runs, declarations=declarations, written=written, out=root / "out")


def table(report: SimpleNamespace) -> pd.DataFrame:
    path = report.out / "tables/sessions_fashion_mnist_sessions_plain_growing.csv"
    return pd.read_csv(path).set_index(["method", "setting", "session"])


def test_sessions_have_a_table_and_a_figure_and_no_training_curves(report: SimpleNamespace) -> None:
    assert {str(p.relative_to(report.out)) for p in report.written} == set(outputs(report.runs, report.declarations))
    names = {p.name for p in report.written}
    assert "sessions_fashion_mnist_sessions_plain_growing.png" in names
    assert not [name for name in names if name.startswith("training")]


def test_means_and_deviations_are_over_draws_and_seeds(report: SimpleNamespace) -> None:
    values = []
    for seed in SEEDS:
        run = Run("desk", "fashion_mnist_sessions", "plain_growing", "lec_net", "shots5", seed)
        metrics = json.loads((report.root / run.folder("evaluate") / "metrics.json").read_text(encoding="utf-8"))
        values += [row["forgetting"] for row in metrics["quality"]["sessions"] if row["session"] == 2]
    row = table(report).loc[("lec_net", "shots5", 2)]
    assert row.n == len(values) == len(SEEDS) * DRAWS and row.classes == 10
    assert row.forgetting == pytest.approx(np.mean(values))
    assert row.forgetting_deviation == pytest.approx(np.std(values, ddof=1))
    assert pd.isna(table(report).loc[("lec_net", "shots5", 0)].forgetting)


def test_the_markdown_shows_accuracy_and_forgetting(report: SimpleNamespace) -> None:
    text = (report.out / "tables/sessions_fashion_mnist_sessions_plain_growing.md").read_text(encoding="utf-8")
    assert text.count("| Nearest class mean | 5 shots |") == text.count("| **LEC-Net** | 5 shots, dense form |") == 2
    assert "1 (8 classes)" in text and "over 6 trials" in text


def test_without_a_dense_network_no_change_is_given(report: SimpleNamespace) -> None:
    text = (report.out / "tables/comparison_fashion_mnist_sessions_plain_growing.md").read_text(encoding="utf-8")
    assert "vs dense" not in text and "no change is given" in text and text.count("bit-operations") == 1


def test_without_results_table_and_figure_say_so(report: SimpleNamespace, tmp_path: Path) -> None:
    write(tmp_path, "desk", report.runs, report.declarations, tmp_path, tmp_path / "out")
    assert "No results yet." in (tmp_path / "out/tables/sessions_fashion_mnist_sessions_plain_growing.md").read_text(
        encoding="utf-8"
    )


def test_a_session_among_the_single_seeds_is_found_by_its_name(report: SimpleNamespace) -> None:
    table = read_seeds(report.out / SEEDS_TABLE)
    own = table[(table.method == "lec_net") & (table.setting == "shots5") & (table.seed == 1)].set_index("name").value
    run = next(r for r in report.runs if (r.method, r.setting, r.seed) == ("lec_net", "shots5", 1))
    rows = json.loads((report.root / "results" / run.name / "evaluate/metrics.json").read_text(encoding="utf-8"))[
        "quality"
    ]["sessions"]
    for row in rows:
        measured = {n: row[n] for n in ("accuracy", "new", "old", "forgetting") if row[n] is not None}
        start = f"quality.sessions.draw{row['draw']}_session{row['session']}."
        assert {n.removeprefix(start): v for n, v in own.items() if n.startswith(start)} == measured
