"""What is timed at the papers' own sizes: networks, numbers of threads and processes, and the files of the results."""

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from compressbench.config import discovery
from compressbench.config.forms import Deployments
from compressbench.errors import UserError
from compressbench.files import slug
from compressbench.method import loading

if TYPE_CHECKING:
    from compressbench.method import Deployment


class DeploymentPlan:
    """What some methods deploy, as far as a scale times it.

    Args:
        root: the project's folder.
        scale: the scale's name.
        wanted: what the scale times; None for nothing.
        methods: their names.
    """

    def __init__(self, root: Path, scale: str, wanted: Deployments | None, methods: Iterable[str]):
        self.root, self.wanted, self.methods = root, wanted, tuple(methods)
        self.folder = Path("results", scale, "deployments")

    @cached_property
    def timed(self) -> "dict[tuple[str, int], dict[str, list[Deployment]]]":
        """(name of a network, number of threads) -> method -> what is timed of it, and what any method has to compare it with.

        Imports the methods.
        """
        found: dict[tuple[str, int], dict[str, list[Deployment]]] = {}
        if self.wanted is None:
            return found
        for method in dict.fromkeys([*self.methods, *discovery.files(self.root)]):
            for deployment in loading.method_class(self.root, method).deployments():
                for threads in self.wanted.threads:
                    if deployment.reference or (method in self.methods and self._asked(deployment, threads)):
                        key = deployment.network.name, threads
                        found.setdefault(key, {}).setdefault(method, []).append(deployment)
        return {
            key: found[key]
            for key in sorted(found)
            if any(not deployment.reference for own in found[key].values() for deployment in own)
        }

    def _asked(self, deployment: "Deployment", threads: int) -> bool:
        assert self.wanted is not None, "asked only where something is timed"
        return threads in deployment.threads and (self.wanted.settings == "all" or deployment.representative)

    def of(self, network: str, threads: int) -> "dict[str, list[Deployment]]":
        """By method, what is timed on a network, given as in the names of files; UserError where it is nothing."""
        for (name, count), found in self.timed.items():
            if (slug(name), count) == (network, threads):
                return found
        known = ", ".join(dict.fromkeys(f"{slug(name)} {count}" for name, count in self.timed))
        raise UserError(
            f"no method deploys anything on {network!r} with {threads} threads here; network and threads are one of: {known}."
        )

    @property
    def report(self) -> str:
        """How table and figure are called."""
        all_settings = self.wanted is None or self.wanted.settings == "all"
        return "deployments" if all_settings else "deployments_representative"

    def digest(self, network: str, threads: int) -> str:
        """A hash of what is timed on a network, and how."""
        assert self.wanted is not None, "a plan with deployments has it"
        settings = {method: [d.setting for d in own] for method, own in self.of(network, threads).items()}
        content = [settings, self.wanted.rounds, self.wanted.runtimes]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def files(self) -> list[Path]:
        """What `compressbench deployment` measures: a file per network, number of threads and process."""
        if self.wanted is None:
            return []
        processes = range(self.wanted.processes)
        return [self.file(slug(network), threads, p) for (network, threads), p in product(self.timed, processes)]

    def before(self, network: str, threads: int, process: int) -> Path | None:
        """The file that is read by the measurement of another one: what was fastest is found once."""
        if process:
            return self.file(network, threads, 0)
        least = min(count for name, count in self.timed if slug(name) == network)
        return self.file(network, least, 0) if least < threads else None

    def file(self, network: str, threads: int, process: int) -> Path:
        """results/{scale}/deployments/{network}/threads{threads}/process{process}.json."""
        return self.folder / network / f"threads{threads}" / f"process{process}.json"
