"""The figure of latent weights: what it reads, and what it says when there is nothing."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from safetensors.numpy import save_file

from compressbench.config import Declaration
from compressbench.plan import Run
from compressbench.reporting.collect import collect
from compressbench.reporting.groups import Group, group_runs
from compressbench.reporting.latent import latent_weights
from compressbench.reporting.outputs import figures_of

PAIR = ("fashion_mnist", "binary_resnet8")
METHODS = {"recu": ("ReCU", "methods.recu"), "bnn": ("BNN", "methods.baselines.bnn")}


def make_group() -> Group:
    declarations = {
        name: Declaration.model_validate({
            "title": title, "paper": "-", "family": "binary", "task": ["classification"], "stages": ["compress"],
            "starts_from": "scratch", "level": {"bits": [1, 1]}, "settings": {"w1a1": {}},
        }).model_copy(update={"package": package})
        for name, (title, package) in METHODS.items()
    }  # fmt: skip
    runs = [Run("desk", *PAIR, name, "w1a1", seed) for name in METHODS for seed in (0, 1)]
    return group_runs(runs, declarations)[0]


def write_results(root: Path, group: Group) -> None:
    rng = np.random.default_rng(0)
    edges = np.linspace(-6, 6, 121)
    for run in group.runs:
        folder = root / run.folder("compress").relative_to("results")
        folder.mkdir(parents=True)
        counts = np.stack([np.histogram(rng.normal(size=5000), edges)[0] for _ in range(3)])
        shares = rng.uniform(0.4, 0.6, 3).astype(np.float32)
        named = {f"{n}_{w}": v for n, v in (("counts", counts), ("best_share", shares)) for w in ("before", "after")}
        save_file(named | {"edges": edges}, folder / "latent.safetensors")
        lines = [f"{e},{1 / (e + 1)},{50 + e},{3 - e}" for e in range(3)]
        (folder / "history.csv").write_text(
            "\n".join(["epoch,loss,validation_top1,tail_flips", *lines]) + "\n", encoding="utf-8"
        )


def draw(root: Path, group: Group) -> Figure:
    results = collect(root, "desk", group.runs)
    summary = pd.DataFrame([{"method": m, "setting": "w1a1", "series": group.series(m, "w1a1")} for m in group.methods])
    return latent_weights(group, summary, results)


def test_it_belongs_to_groups_of_binary_methods() -> None:
    assert "latent_weights" in figures_of(make_group())


def test_it_has_a_curve_before_and_after_and_a_dot_per_layer(tmp_path: Path) -> None:
    group = make_group()
    write_results(tmp_path, group)
    density, flips, share = draw(tmp_path, group).axes
    assert [text.get_text() for text in density.get_legend().get_texts()] == ["ReCU", "BNN"]
    drawn = [line for line in density.lines if len(line.get_xdata()) == 120]
    assert len(drawn) == 4
    for line in drawn:
        assert np.nansum(line.get_ydata()) * 0.1 == pytest.approx(1)
    assert [list(line.get_ydata()) for line in flips.lines] == [[3, 2, 1]] * 2
    assert sum(len(line.get_xdata()) == 3 for line in share.lines) == 4


def test_damaged_and_missing_files_leave_a_placeholder(tmp_path: Path) -> None:
    group = make_group()
    folder = tmp_path / group.runs[0].folder("compress").relative_to("results")
    folder.mkdir(parents=True)
    (folder / "latent.safetensors").write_bytes(b"\x10\x00")
    assert not draw(tmp_path, group).axes
