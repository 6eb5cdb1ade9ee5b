"""The data sets that the runs of a plan read, and what stands for their content."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from compressbench.config import ImageFolder, Scale
from compressbench.errors import UserError
from compressbench.plan.job import Run

if TYPE_CHECKING:
    from compressbench.data import Dataset


class DataSets:
    """Of some runs of one scale. `root` is the project's folder."""

    def __init__(self, root: Path, scale: Scale, runs: Iterable[Run]):
        self._root, self._scale, self._runs = root, scale, runs
        self._found: dict[tuple[str | None, str], Dataset] = {}
        self._hashes: dict[str, str | None] = {}

    def own(self, run: Run) -> ImageFolder | None:
        """The form of the data set, where the scale has one of its own."""
        return None if self._scale.pairs[run.pair].data else self._scale.datasets.get(run.dataset)

    def of(self, run: Run) -> "Dataset":
        """What a run reads."""
        from compressbench import data

        elsewhere = self._scale.pairs[run.pair].data
        key = (elsewhere, "" if elsewhere else run.dataset)
        if key not in self._found:
            self._found[key] = data.find(elsewhere or run.dataset, self._root / "data", self.own(run))
        return self._found[key]

    @cached_property
    def read(self) -> dict[str, "Dataset"]:
        """All that the runs read, by the name of their folder."""
        return {entry.info.folder: entry for entry in map(self.of, self._runs)}

    @cached_property
    def fetched(self) -> dict[str, str]:
        """What the data stage brings of them, with the hash of each."""
        found = {name: self.hash(entry) for name, entry in self.read.items() if not entry.brought}
        return {name: value for name, value in found.items() if value is not None}

    def hash(self, entry: "Dataset") -> str | None:
        """The pinned hash, or that of a manifest; None for what neither is pinned nor brought, and for what is not there."""
        name = entry.info.folder
        if name not in self._hashes:
            self._hashes[name] = self._manifest(entry) if entry.brought else entry.hash or self._pinned.get(name)
        return self._hashes[name]

    def beside(self, entry: "Dataset") -> dict[str, str]:
        """The labelled data set of the same classes, where there is one and it is there -> what stands for its content."""
        from compressbench import data

        found = self.hash(data.find(entry.beside)) if entry.beside else None
        return {} if found is None or entry.beside is None else {entry.beside: found}

    def renew(self) -> None:
        """Look at the files that users brought: what has changed since a hash was computed gets a new one."""
        for name, entry in self.read.items():
            if entry.brought:
                self._hashes[name] = self._manifest(entry, renew=True)

    def check(self) -> None:
        """UserError where users have to bring some of the data sets and have not, with a sentence for each."""
        from compressbench.data.files import external_folder

        problems = []
        for entry in self.read.values():
            try:
                if entry.brought:
                    entry.brought.check(external_folder(self._root / "data") / entry.brought.place)
            except UserError as error:
                problems.append(str(error))
        if problems:
            raise UserError("\n".join(problems))

    def _manifest(self, entry: "Dataset", renew: bool = False) -> str | None:
        from compressbench.data import manifest
        from compressbench.data.files import external_folder

        assert entry.brought is not None, "only what users bring has a manifest"
        place = external_folder(self._root / "data") / entry.brought.place
        if not place.is_dir():
            return None
        computed = manifest.refreshed if renew else manifest.recorded
        return computed(self._root, entry.info.folder, place, entry.brought.hash)

    @cached_property
    def _pinned(self) -> dict[str, str]:
        from compressbench.data import versioning

        return versioning.pinned_hashes(self._root)
