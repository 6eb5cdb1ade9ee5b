"""Groups of settings that are compared with each other, one per (dataset, model), and their labels."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from compressbench.config.levels import Level, point
from compressbench.reporting.collect import AT

if TYPE_CHECKING:
    from compressbench.config import Declaration
    from compressbench.plan import Run

FAMILIES = {
    "unstructured": "Unstructured pruning",
    "block": "Block pruning",
    "filter": "Filter pruning",
    "quantization": "Quantization",
    "binary": "Binary networks",
    "super_resolution": "Super-resolution",
    "adaptive": "Adaptive inference",
    "distillation": "Distillation",
    "incremental": "Class-incremental learning",
    "dense": "Dense networks",
}
SPARSE = ("unstructured", "block")
PRUNING = {*SPARSE, "filter"}
NARROWER = {"filter", "adaptive"}  # less arithmetic that every library can run
QUANTIZED = {"quantization", "binary", "super_resolution"}
LONGEST_TITLE = 34
FEW_FAMILIES = 3


class Wording(NamedTuple):
    """How the quality of a task is called in metrics.json, on an axis, and in a table; and the unit of a difference."""

    metric: str
    quality: str
    header: str
    unit: str


TASKS = {
    "classification": Wording("top1", "test accuracy, top-1 (%)", "top-1, %", "points"),
    "class_incremental": Wording("top1", "accuracy after the last session (%)", "top-1, %", "points"),
    "super_resolution": Wording("psnr", "PSNR on Y (dB)", "PSNR on Y, dB", "dB"),
    "fidelity": Wording("agreement", "agreement with the float network (%)", "agreement, %", "points of agreement"),
}


@dataclass(frozen=True)
class Group:
    """The runs on one (dataset, model): one comparison table, one set of figures."""

    dataset: str
    model: str
    runs: tuple["Run", ...]
    declarations: Mapping[str, "Declaration"]
    points: Mapping[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)
    """(method, setting) -> operating points of its models, name -> label; `setting@point` is a setting of the tables."""
    stated: str | None = None
    """The task of the data set, where it is none that methods declare."""

    @property
    def slug(self) -> str:
        """The group's part of a file name."""
        return f"{self.dataset}_{self.model}"

    @cached_property
    def methods(self) -> list[str]:
        """Own methods first, then baselines, then the dense reference."""
        names = dict.fromkeys(run.method for run in self.runs)
        return sorted(names, key=lambda m: (self.is_dense(m), self.is_baseline(m), m))

    @cached_property
    def settings(self) -> dict[str, list[str]]:
        """The settings that run here, per method, in the order of the declaration; with their operating points."""
        return {
            m: [at for s in own for at in ([f"{s}{AT}{p}" for p in self.points.get((m, s), ())] or [s])]
            for m, own in self.declared.items()
        }

    @cached_property
    def declared(self) -> dict[str, list[str]]:
        """The same without operating points."""
        here = {(run.method, run.setting) for run in self.runs}
        return {m: [s for s in self.declarations[m].settings if (m, s) in here] for m in self.methods}

    @property
    def rows_expected(self) -> int:
        """Runs, counted once per operating point."""
        return sum(len(self.points.get((run.method, run.setting), ())) or 1 for run in self.runs)

    def is_baseline(self, method: str) -> bool:
        """Whether it lies under methods/baselines."""
        return self.declarations[method].is_baseline

    def is_dense(self, method: str) -> bool:
        """Whether it is the uncompressed reference."""
        return self.declarations[method].family == "dense"

    @property
    def has_dense(self) -> bool:
        """Whether the uncompressed reference runs here."""
        return any(self.is_dense(method) for method in self.methods)

    @cached_property
    def families(self) -> list[str]:
        """The families compared here, that of most methods first: those of the methods, or of the baselines where none runs."""
        compared = [m for m in self.methods if not self.is_dense(m)]
        chosen = [m for m in compared if not self.is_baseline(m)] or compared or self.methods
        counts: Counter[str] = Counter(self.declarations[m].family for m in chosen)
        return sorted(counts, key=lambda f: (-counts[f], list(FAMILIES).index(f)))

    @cached_property
    def task(self) -> str:
        """The task that all methods of the group can do, or that of the data set."""
        if self.stated is not None:
            return self.stated
        common = set.intersection(*(set(self.declarations[m].task) for m in self.methods))
        if len(common) == 1:
            return common.pop()
        return "super_resolution" if "super_resolution" in self.families else "classification"

    @property
    def metric(self) -> str:
        """The name of the quality in metrics.json."""
        return TASKS[self.task].metric

    @property
    def quality(self) -> str:
        """The axis title of the quality."""
        return TASKS[self.task].quality

    @property
    def header(self) -> str:
        """What the quality is, and its unit."""
        return TASKS[self.task].header

    @property
    def unit(self) -> str:
        """The unit of a difference of qualities."""
        return TASKS[self.task].unit

    @property
    def kind(self) -> str:
        """What is done to the networks, in words."""
        if self.mixed:
            return "All families"
        words = [FAMILIES[f] for f in self.families]
        return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1].lower()

    @property
    def mixed(self) -> bool:
        """Whether so many families are compared that a family is a colour."""
        return len(self.families) > FEW_FAMILIES

    @property
    def title(self) -> str:
        """For headings."""
        return f"{self.kind}: {self.model} on {self.dataset}"

    @property
    def quantized(self) -> bool:
        """Whether bit-operations, not MACs, measure the work."""
        return bool(QUANTIZED & set(self.families))

    @property
    def compressed(self) -> bool:
        """Whether networks of different cost are compared: distillation alone trains one network in several ways."""
        return self.families != ["distillation"]

    @property
    def sparse(self) -> bool:
        """Whether networks are compared that keep their shape and have zeros."""
        return bool(set(SPARSE) & set(self.families))

    def short(self, method: str) -> str:
        """A method's title without its subtitle."""
        title = self.declarations[method].title
        for mark in (": ", " (", " - ", ", "):
            title = title.split(mark)[0]
        return title if len(title) <= LONGEST_TITLE else title[: LONGEST_TITLE - 1].rstrip() + "…"

    @cached_property
    def levels(self) -> dict[tuple[str, str], Level]:
        """(method, setting) -> how strongly it compresses; an operating point is a level."""
        declared = {(m, s): self.declarations[m].level_of(s) for m, own in self.declared.items() for s in own}
        points = {
            (m, f"{s}{AT}{name}"): point(name, label)
            for (m, s), own in self.points.items()
            for name, label in own.items()
        }
        return declared | points

    def level_name(self, level: str) -> str:
        """The level of this name in words that stand alone."""
        return {own.name: own.alone for own in self.levels.values()}[level]

    def label(self, method: str, setting: str) -> str:
        """A setting in words: those of its operating point, after those of the setting where the method has several."""
        if AT not in setting:
            return self.declarations[method].label_of(setting)
        return ", ".join(filter(None, (self.variant(method, setting), self.levels[method, setting].label)))

    def variant(self, method: str, setting: str) -> str:
        """What distinguishes a setting from the method's others at the same level, in words; often nothing."""
        declared = setting.partition(AT)[0]
        if (method, declared) in self.points:
            return self.label(method, declared) if len(self.declared[method]) > 1 else ""
        return self.declarations[method].variant_of(setting)

    def series(self, method: str, setting: str) -> str:
        """The name of a curve: the method, and the variant where it has several."""
        variant = self.variant(method, setting)
        if self.is_dense(method):
            variant = self.label(method, setting) if len(self.settings[method]) > 1 else ""
        return f"{self.short(method)}, {variant}" if variant else self.short(method)

    def is_reference(self, method: str) -> bool:
        """Baselines that share no level with others, such as the dense network or bicubic upsampling: lines, not points."""
        mine = self._levels(method)
        others = {level for m in self.methods if m != method and not self.is_dense(m) for level in self._levels(m)}
        alone = bool(others) and not mine & others and len(self.methods) > 2
        return self.is_dense(method) or (self.is_baseline(method) and alone)

    def _levels(self, method: str) -> set[str]:
        """The names of a method's levels."""
        return {self.levels[method, s].name for s in self.settings[method]} - {""}


def group_runs(
    runs: Sequence["Run"],
    declarations: Mapping[str, "Declaration"],
    points: Mapping[tuple[str, str, str, str], Mapping[str, str]] | None = None,
    unlabelled: Collection[str] = (),
) -> list[Group]:
    """The groups of a plan, pruning first, then by name.

    points: those of `Results`. unlabelled: the pairs on which networks are compared with the float network.
    """
    pairs: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        pairs.setdefault((run.dataset, run.model), []).append(run)
    groups = [
        Group(
            dataset,
            model,
            tuple(own),
            declarations,
            {key[2:]: labels for key, labels in (points or {}).items() if key[:2] == (dataset, model)},
            "fidelity" if f"{dataset}/{model}" in unlabelled else None,
        )
        for (dataset, model), own in pairs.items()
    ]
    order = list(FAMILIES)
    return sorted(groups, key=lambda g: (order.index(g.families[0]), g.slug))


def is_number(value: float | None) -> bool:
    """Whether there is something to print."""
    return value is not None and not math.isnan(value)
