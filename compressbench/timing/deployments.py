"""Times what methods deploy on the networks of their papers: all that is deployed on one network, in one process.

Every network, dense or compressed, runs on the runtime where it is fastest. What one process finds differs from what another
one finds by more than its rounds do (where memory lies, how threads fell), so that several processes measure the same. The
first one tries all runtimes and all forms of every layer; the others prepare only what won there, in the same forms.
"""

import contextlib
import copy
import gc
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressbench import accounting, machine
from compressbench.kernels import autotune
from compressbench.kernels.autotune import Call
from compressbench.method import Deployment
from compressbench.method.operating_points import ImageDependent
from compressbench.models import Network
from compressbench.models.published import PublishedNetwork
from compressbench.runtimes.base import Skip
from compressbench.runtimes.discovery import make_runtime
from compressbench.seeding import derive_seed, generator
from compressbench.timing.latency import interleaved_times, measuring

TRIALS = 3  # rounds in which the fastest runtime is found
SLOW = 500  # milliseconds; where one of them takes so long, one round
NEAR = 1.25  # a dense form within this factor of the fastest of any precision may turn out to be the fastest one


@dataclass(frozen=True)
class _Subject:
    """One network of the table: the dense one, which has no methods, or a deployment."""

    network: PublishedNetwork
    methods: tuple[str, ...] = ()
    deployment: Deployment | None = None
    batch: int = 1
    represents: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, int]:
        """What the rows of all processes are matched by."""
        return "+".join(self.methods), self.deployment.setting if self.deployment else "", self.batch

    @property
    def compressed(self) -> bool:
        """Whether it is neither dense nor what one would deploy instead."""
        return self.deployment is not None and not self.deployment.reference

    def about(self) -> dict[str, Any]:
        found: dict[str, Any] = {"methods": list(self.methods), "represents": list(self.represents)}
        found |= {"setting": self.key[1], "batch": self.batch}
        if self.deployment is not None:
            found |= {name: getattr(self.deployment, name) for name in ("reference", "published", "note")}
        return found

    def build(self, dense: Network) -> nn.Module:
        """The network, the same in every process."""
        dense = copy.deepcopy(dense)
        if self.deployment is None:
            return dense
        with self._seeded():
            return self.deployment.compress(dense).eval()

    def switch(self, dense: Network) -> Call | None:
        """What makes of a deployed network another one."""
        if self.deployment is None or self.deployment.switch is None:
            return None
        with self._seeded():
            return self.deployment.switch(dense)

    @contextlib.contextmanager
    def _seeded(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed("deployments", self.network.name, self.key[1]))
            yield

    def example(self) -> Tensor:
        return torch.randn(self.batch, *self.network.shape, generator=generator("latency", "input", 0))


@dataclass
class _Form:
    """One network on one runtime; `trial_ms` per image where several were compared."""

    about: dict[str, Any]
    call: Call
    trial_ms: float = math.inf

    @property
    def arithmetic(self) -> tuple[str, int]:
        return self.about["arithmetic"], self.about["batch"]

    @property
    def compressed(self) -> bool:
        return bool(self.about["methods"]) and not self.about.get("reference", False)


def measure(
    network: PublishedNetwork,
    deployments: Mapping[str, Sequence[Deployment]],
    runtimes: Sequence[str],
    *,
    threads: int = 1,
    rounds: int = 10,
    process: int = 0,
    first: Mapping[str, Any] | None = None,
    like: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of deployments/NETWORK/threadsT/processP.json.

    Args:
        deployments: by method; all of them on `network`.
        process: which of several processes this is; it decides the order of the rounds.
        first: what the first process found: its forms are measured again, and no others.
        like: what it found with another number of threads: deployments run in the forms that were the fastest there.

    Returns:
        {"network", "size", "threads", "process", "rounds", "machine", "cpu_seconds", "dense": [{"runtime", "arithmetic",
        "batch", "setting", "ms"}], "forms": [{"methods": [names], "represents": [names], "setting", "batch", "runtime",
        "arithmetic", "params", "macs", "stored_bytes", "ms", ...}]}. "dense" is a short trial of the dense network on every
        runtime, in the first process. "forms" has the dense network, which has no methods, and every deployment, each in every
        arithmetic on the runtime where it is fastest; ms, per image, is the median over the rounds.
    """
    started = time.process_time()
    subjects, dense = _subjects(network, deployments), network.initialised()
    with measuring(threads):
        if first is None:
            forms, trials = _tried(subjects, dense, runtimes, like["forms"] if like else [])
        else:
            trials = list(first["dense"])
            forms = [form for subject in subjects for form in _as_before(subject, dense, first["forms"])]
        switches = _switches(subjects, dense)
        prepared = time.process_time()
        rng = random.Random(derive_seed("deployments", network.name, threads, process))
        times = interleaved_times([form.call for form in forms], rounds, 1, rng)
        switching = interleaved_times(list(switches.values()), rounds, 1, rng)
    medians = {key: float(np.median(own)) for key, own in zip(switches, switching, strict=True)}
    rows = [
        form.about | {"ms": float(np.median(own)) / form.about["batch"], "switch_ms": medians.get(_key(form.about))}
        for form, own in zip(forms, times, strict=True)
    ]
    seconds = {"preparing": prepared - started, "timing": time.process_time() - prepared}
    return {
        "network": network.name, "size": network.size, "threads": threads, "process": process, "rounds": rounds,
        "machine": machine.describe(), "cpu_seconds": seconds, "dense": trials, "forms": rows,
    }  # fmt: skip


def _subjects(network: PublishedNetwork, deployments: Mapping[str, Sequence[Deployment]]) -> list[_Subject]:
    """The dense network, for every size of a batch, and every deployment once, with the methods that deploy it."""
    found: dict[tuple[object, str, int], list[tuple[str, Deployment]]] = {}
    for method, known in deployments.items():
        for deployment in known:
            key = deployment.compress, deployment.setting, deployment.batch
            found.setdefault(key, []).append((method, deployment))
    dense = [_Subject(network, batch=batch) for batch in sorted({batch for _, _, batch in found})]
    compressed = []
    for (_, _, batch), same in found.items():
        methods, represents = (tuple(m for m, d in same if d.representative or all_) for all_ in (True, False))
        compressed.append(_Subject(network, methods, _described([d for _, d in same]), batch, represents))
    return dense + compressed


def _described(same: Sequence[Deployment]) -> Deployment:
    """Of equal ones, the one about which a method says most."""
    return max(same, key=lambda deployment: (bool(deployment.published), bool(deployment.note)))


def _tried(
    subjects: Sequence[_Subject], dense: Network, runtimes: Sequence[str], like: Sequence[Mapping[str, Any]]
) -> tuple[list[_Form], list[dict[str, Any]]]:
    """Every subject, in every arithmetic, on the runtime where it is fastest; and what the dense ones took on each runtime."""
    forms: list[_Form] = []
    trials: list[dict[str, Any]] = []
    for subject in subjects:
        if subject.compressed and (known := _as_before(subject, dense, like)):
            forms += known
            continue
        wanted = subject.deployment.runtimes if subject.deployment else ()
        model, example = subject.build(dense), subject.example()
        alike = {
            form.about["runtime"]: form.about["choices"] for form in forms if form.about["setting"] == subject.key[1]
        }
        own: list[_Form] = []
        for name in runtimes:
            if not wanted or name in wanted:
                own += _prepared(subject, model, name, example, alike.get(name, []) if subject.compressed else [])
        _try(own)
        quickest: dict[tuple[str, int], _Form] = {}
        for form in own:
            if form.trial_ms < quickest.setdefault(form.arithmetic, form).trial_ms:
                quickest[form.arithmetic] = form
            if not subject.compressed:
                trial = {name: form.about[name] for name in ("runtime", "arithmetic", "batch", "setting")}
                trials.append(trial | {"ms": form.trial_ms})
        costs = _costs(model, subject, example)
        for form in quickest.values():
            form.about |= costs
        forms += quickest.values()
        del model, own
        gc.collect()  # what lost: the collector itself is off
    return _needed(forms), trials


def _try(forms: Sequence[_Form]) -> None:
    """Calls all in turns, each of which ran once before."""
    for _ in range(TRIALS):
        for form in forms:
            start = time.perf_counter()
            form.call()
            form.trial_ms = min(form.trial_ms, 1e3 * (time.perf_counter() - start) / form.about["batch"])
        if any(form.trial_ms * form.about["batch"] > SLOW for form in forms):
            break


def _needed(forms: Sequence[_Form]) -> list[_Form]:
    """Without dense networks that no compressed one is compared with: in its arithmetic, in fp32, or as the fastest."""
    used = {form.arithmetic for form in forms if form.compressed}
    used |= {("fp32", batch) for _, batch in used}
    least: dict[int, float] = {}
    for form in forms:
        if not form.compressed:
            batch = form.about["batch"]
            least[batch] = min(form.trial_ms, least.get(batch, form.trial_ms))
    return [
        form
        for form in forms
        if form.compressed or form.arithmetic in used or form.trial_ms <= NEAR * least[form.about["batch"]]
    ]


def _as_before(subject: _Subject, dense: Network, forms: Sequence[Mapping[str, Any]]) -> list[_Form]:
    """The subject in the forms in which another process ran it, prepared without a trial."""
    known = [about for about in forms if _key(about) == subject.key]
    if not known:
        return []
    model, example = subject.build(dense), subject.example()
    found: list[_Form] = []
    for about in known:
        counted = {name: about[name] for name in ("params", "macs", "stored_bytes")}
        for form in _prepared(subject, model, about["runtime"], example, about["choices"]):
            found.append(_Form(form.about | counted, form.call))
    return found


def _key(about: Mapping[str, Any]) -> tuple[str, str, int]:
    return "+".join(about["methods"]), about["setting"], about["batch"]


def _costs(model: nn.Module, subject: _Subject, example: Tensor) -> dict[str, Any]:
    counted = accounting.account(model, subject.network.shape)
    if isinstance(model, ImageDependent):
        counted = accounting.with_mean_macs(counted, model.mean_macs([example]))
    return {"params": counted.params, "macs": counted.macs, "stored_bytes": counted.stored_bytes}


def _prepared(subject: _Subject, model: nn.Module, name: str, example: Tensor, choices: Sequence[int]) -> list[_Form]:
    """The model on a runtime, with choices among forms that are already made; empty where it does not run there."""
    start = time.perf_counter()
    try:
        runtime = make_runtime(name)
        if runtime.objection(model):
            return []
        with autotune.repeating(choices), autotune.recording() as chosen:
            call = runtime.prepare(model, example)
        call()
    except Skip:
        return []
    spent = {"prepare_ms": 1e3 * (time.perf_counter() - start), "choices": chosen}
    about = {"runtime": name, "arithmetic": runtime.arithmetic, **runtime.describe()}
    return [_Form(subject.about() | about | spent, call)]


def _switches(subjects: Sequence[_Subject], dense: Network) -> dict[tuple[str, str, int], Call]:
    """What makes a deployed network another one, by subject."""
    return {subject.key: call for subject in subjects if (call := subject.switch(dense)) is not None}
