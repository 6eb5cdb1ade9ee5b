"""Times what methods deploy on the networks of their papers: all that is deployed on one network, in one process.

Every network, dense or compressed, runs on the runtime where it is fastest. What one process finds differs from what another
one finds by more than its rounds do (where memory lies, how threads fell), so that several processes measure the same.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressbench import accounting, machine
from compressbench.kernels.autotune import Call, fastest
from compressbench.method import Deployment
from compressbench.models.published import PublishedNetwork
from compressbench.runtimes.base import Skip
from compressbench.runtimes.discovery import make_runtime
from compressbench.seeding import derive_seed, generator
from compressbench.timing.latency import interleaved_times, measuring


@dataclass
class _Form:
    """One network on one runtime."""

    about: dict[str, Any]
    call: Call


def measure(
    network: PublishedNetwork,
    deployments: Mapping[str, Sequence[Deployment]],
    runtimes: Sequence[str],
    *,
    threads: int = 1,
    rounds: int = 10,
    process: int = 0,
) -> dict[str, Any]:
    """The content of deployments/NETWORK/THREADS/PROCESS.json: the dense network on every runtime, then each deployment.

    Args:
        deployments: by method; all of them on `network`.
        process: which of several processes this is; it decides the order of the rounds.

    Returns:
        {"network", "threads", "rounds", "machine", "forms": [{"methods": [names], "setting", "runtime", "arithmetic",
        "params", "macs", "stored_bytes", "ms", ...}]}: the dense network, which has no methods, on every runtime, then every
        deployment; ms is the median over the rounds.
    """
    example = torch.randn(1, *network.shape, generator=generator("latency", "input", 0))
    with measuring(threads):
        forms = _dense_forms(network, runtimes, example)
        for methods, deployment in _distinct(deployments):
            forms += _compressed_forms(methods, deployment, runtimes, example)
        rng = random.Random(derive_seed("deployments", network.name, threads, process))
        times = interleaved_times([form.call for form in forms], rounds, 1, rng)
    rows = [form.about | {"ms": float(np.median(own))} for form, own in zip(forms, times, strict=True)]
    return {
        "network": network.name, "threads": threads, "rounds": rounds, "machine": machine.describe(), "forms": rows,
    }  # fmt: skip


def _dense_forms(network: PublishedNetwork, runtimes: Sequence[str], example: Tensor) -> list[_Form]:
    dense = network.initialised()
    costs = _costs(dense, network)
    prepared = _prepared(dense, runtimes, example)
    return [_Form({"methods": [], "setting": "", **costs, **about}, call) for about, call in prepared]


def _distinct(deployments: Mapping[str, Sequence[Deployment]]) -> list[tuple[list[str], Deployment]]:
    """Every deployment once, with the methods that deploy it."""
    found: dict[tuple[object, str], tuple[list[str], Deployment]] = {}
    for method, known in deployments.items():
        for deployment in known:
            found.setdefault((deployment.compress, deployment.setting), ([], deployment))[0].append(method)
    return list(found.values())


def _compressed_forms(
    methods: Sequence[str], deployment: Deployment, runtimes: Sequence[str], example: Tensor
) -> list[_Form]:
    """One deployment on the runtime where it is fastest, for every arithmetic."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("deployments", deployment.network.name, deployment.setting))
        model = deployment.compress(deployment.network.initialised()).eval()
    own: dict[str, Any] = {
        "methods": list(methods),
        "setting": deployment.setting,
        "reference": deployment.reference,
        "claim": deployment.claim,
        "note": deployment.note,
    }
    own |= _costs(model, deployment.network)
    wanted = [name for name in runtimes if not deployment.runtimes or name in deployment.runtimes]
    found: dict[str, dict[str, _Form]] = {}
    for about, call in _prepared(model, wanted, example):
        found.setdefault(about["arithmetic"], {})[about["runtime"]] = _Form(own | about, call)
    return [forms[_quickest(forms)] for forms in found.values()]


def _quickest(forms: Mapping[str, _Form]) -> str:
    return fastest({name: form.call for name, form in forms.items()}, warmup=1, rounds=3)


def _costs(model: nn.Module, network: PublishedNetwork) -> dict[str, Any]:
    counted = accounting.account(model, network.shape)
    return {"params": counted.params, "macs": counted.macs, "stored_bytes": counted.stored_bytes}


def _prepared(model: nn.Module, runtimes: Sequence[str], example: Tensor) -> list[tuple[dict[str, Any], Call]]:
    """The model on every runtime that runs it."""
    found = []
    for name in runtimes:
        try:
            runtime = make_runtime(name)
            if not runtime.objection(model):
                call = runtime.prepare(model, example)
                call()
                found.append(({"runtime": name, "arithmetic": runtime.arithmetic, **runtime.describe()}, call))
        except Skip:
            continue
    return found
