"""Jointly trained networks: panels, curves, and which figures distillation has."""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
from matplotlib.figure import Figure

from compressbench.reporting.collect import Results, collect
from compressbench.reporting.groups import Group, group_runs
from compressbench.reporting.outputs import AGAINST_COST, figures_of
from compressbench.reporting.peers import peers
from compressbench.reporting.published import read_published
from compressbench.reporting.summary import summarize


@pytest.fixture(scope="module")
def results(report: SimpleNamespace) -> Results:
    return collect(report.results, "desk", report.runs, None)


@pytest.fixture(scope="module")
def groups(report: SimpleNamespace) -> dict[str, Group]:
    return {g.model: g for g in group_runs(report.runs, report.declarations)}


def draw(group: Group, results: Results, report: SimpleNamespace) -> Figure:
    return peers(
        group, summarize(results, group, read_published(report.root / "methods", report.declarations)), results
    )


def names(figure: Figure) -> list[set[str]]:
    return [{text.get_text() for text in axes.texts} for axes in figure.axes]


def test_distillation_has_no_figures_against_cost_and_others_have_no_peers(groups: dict[str, Group]) -> None:
    distillation = groups["resnet8_thin"]
    assert not distillation.compressed and not distillation.quantized
    assert "peers" in figures_of(distillation) and not set(AGAINST_COST) & set(figures_of(distillation))
    for model in ("resnet_mini", "resnet8"):
        assert set(AGAINST_COST) <= set(figures_of(groups[model])) and "peers" not in figures_of(groups[model])


def test_a_panel_has_the_kept_network_those_beside_it_and_the_baselines(
    groups: dict[str, Group], results: Results, report: SimpleNamespace
) -> None:
    baselines = {"Dense", "Knowledge distillation", "Knowledge distillation, λ 0.5"}
    ffsd, mutual = names(draw(groups["resnet8_thin"], results, report))
    assert ffsd == baselines | {"FFSD", "students, mean", "students, ensemble", "fusion"}
    assert mutual == baselines | {"Mutual learning", "students, mean", "students, ensemble"}


def test_curves_are_means_over_seeds_at_equal_steps(
    groups: dict[str, Group], results: Results, report: SimpleNamespace
) -> None:
    axes = draw(groups["resnet8_thin"], results, report).axes[0]
    kept = max(axes.lines, key=lambda line: line.get_linewidth())
    own = results.history[results.history.method == "ffsd"]
    assert list(kept.get_xdata()) == [100 * (e + 1) for e in range(8)]
    assert kept.get_ydata()[-1] == pytest.approx(own[own.epoch == 7].validation_top1.mean())


def test_a_longer_training_is_a_level_and_does_not_stretch_the_axis(
    groups: dict[str, Group], results: Results, report: SimpleNamespace
) -> None:
    history = results.history.copy()
    longer = (history.method == "teacher") & (history.setting == "unchanged_half")
    history.loc[longer, "steps"] *= 4
    figure = draw(groups["resnet8_thin"], replace(results, history=history), report)
    assert "Knowledge distillation, λ 0.5, 3,200 steps" in names(figure)[0]
    assert all(axes.get_xlim()[1] < 900 for axes in figure.axes)
    end = history[longer & (history.epoch == 7)].validation_top1.mean()
    assert any(list(line.get_ydata()) == pytest.approx([end, end]) for line in figure.axes[0].lines)


def test_without_networks_that_learn_together_it_says_so(
    groups: dict[str, Group], results: Results, report: SimpleNamespace
) -> None:
    group = groups["resnet8_thin"]
    without = results.history.drop(columns=[c for c in results.history if c.startswith("validation_top1_")])
    for history in (without, pd.DataFrame(columns=without.columns)):
        assert not draw(group, replace(results, history=history), report).axes
