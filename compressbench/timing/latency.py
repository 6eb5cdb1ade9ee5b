"""Milliseconds per image of a compressed model beside its dense model, interleaved in one process."""

import contextlib
import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.utils.deterministic
from torch import Tensor, nn

from compressbench import machine
from compressbench.finite import finite
from compressbench.kernels.autotune import Call
from compressbench.layers.deployment import deploy, simulated_kinds
from compressbench.method.operating_points import Adaptive, Blockwise, ImageDependent
from compressbench.runtimes.base import GROSS, Runtime, Skip
from compressbench.runtimes.discovery import make_runtime
from compressbench.runtimes.onnx_export import exported_once
from compressbench.seeding import derive_seed, generator
from compressbench.training.layout import channels_last

Clock = Callable[[], float]
Times = npt.NDArray[np.float64]

DEFAULT_RUNTIMES = ("torch_eager", "torch_compiled", "onnxruntime")
WINDOW = 5e-4  # seconds a timed stretch should last at least: 10,000 times the resolution of the timer
RESAMPLES = 2000
SINGLE_IMAGES, BATCHED_IMAGES = 32, 200
"""How many test images are timed one by one, and at least in batches."""
ROUNDS_OF_ONE_IMAGE = 5
"""A round over many images averages what takes this many rounds of one image."""
IMAGE_BY_IMAGE = "its arithmetic depends on the image, which eager mode alone can follow"


class OutputMismatch(RuntimeError):
    """A runtime computes something else than the model."""


def measure(
    dense: nn.Module,
    compressed: nn.Module,
    input_shape: Sequence[int],
    runtimes: Sequence[str] = DEFAULT_RUNTIMES,
    threads: Sequence[int] | None = None,
    rounds: int = 30,
    warmup: int = 10,
    seed: int = 0,
    clock: Clock = time.perf_counter,
    images: Tensor | None = None,
    process: int = 0,
) -> dict[str, Any]:
    """The content of latency.json for batch 1, as one process measures it; `input_shape` is one image's [C, H, W].

    Every runtime runs at every thread count (1 and all cores unless given), dense and compressed interleaved round by
    round, in an order that depends on `seed` and `process`. "simulated" names the kinds of compressed layers that the dense
    libraries only imitate in fp32 (quantizers): times of such a model say what the simulation costs, not what compression buys.

    A network that spends more on some images than on others is timed on `images` [N, C, H, W], one by one, in eager mode with
    one thread: the other runtimes would follow whatever path their example took.
    """
    if rounds < 1:
        raise ValueError(f"latency needs at least one round, not {rounds}")
    example = torch.randn(1, *input_shape, generator=generator("latency", "input", seed))
    simulated = simulated_kinds(compressed)
    pair = [_Subject("dense", dense, example), _Subject("compressed", compressed, example, exact=not simulated)]
    measurements: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    counts = sorted(set(threads or (1, machine.usable_cores())))
    if isinstance(compressed, ImageDependent):
        if images is None:
            raise ValueError("a network whose arithmetic depends on the image is timed on images; give some")
        timed = throughput({"dense": dense, "compressed": compressed}, images, 1, rounds, warmup, seed, clock)[
            "compressed"
        ]
        eager = make_runtime("torch_eager")
        eager.prepare(compressed, images[:1])  # for its description
        measurements.append(_about("torch_eager", 1, eager) | timed)
        skipped += [{"runtime": name, "reason": IMAGE_BY_IMAGE} for name in runtimes if name != "torch_eager"]
        runtimes = ()
    with exported_once():
        for name in runtimes:
            try:
                if make_runtime(name).objection(compressed):
                    continue
                for count in counts:
                    rng = random.Random(derive_seed("latency", name, count, seed, process))
                    with measuring(count):
                        measurements.append(_measure_one(name, count, pair, example, rounds, warmup, rng, clock))
            except Skip as reason:
                skipped.append({"runtime": name, "reason": str(reason)})
    return {
        "batch": 1,
        "input_shape": list(input_shape),
        "machine": machine.describe(),
        "simulated": simulated,
        "measurements": measurements,
        "skipped": skipped,
    }


def eager_milliseconds(measured: Mapping[str, Any]) -> float:
    """The network's median in eager mode with one thread, out of what `measure` found."""
    return next(
        float(m["compressed_ms"]["median"])
        for m in measured["measurements"]
        if (m["runtime"], m["threads"]) == ("torch_eager", 1)
    )


def timed_images(batch: int) -> int:
    """How many images `throughput` looks at, at most."""
    return SINGLE_IMAGES if batch == 1 else max(batch, BATCHED_IMAGES)


def throughput(
    networks: dict[str, nn.Module],
    images: Tensor,
    batch: int,
    rounds: int = 30,
    warmup: int = 10,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> dict[str, dict[str, Any]]:
    """Every network on the same `images` [N, C, H, W] in batches, in eager mode with one thread, all interleaved.

    Per network: "batch", "images", "rounds", "dense_ms" and "compressed_ms" per image, and "speedup" over the network called
    "dense". The images are the first ones; batches that are not full are left out. `rounds` and `warmup` are those of single
    images.
    """
    rounds, warmup = (max(1, n // ROUNDS_OF_ONE_IMAGE) for n in (rounds, warmup))
    count = min(len(images), timed_images(batch)) // batch * batch
    if count == 0:
        raise ValueError(f"{len(images)} images do not fill a batch of {batch}")
    parts = images[:count].split(batch)

    def run(model: nn.Module) -> Call:
        deployed = channels_last(deploy(model))

        def call() -> None:
            for part in parts:
                deployed(part)

        return call

    rng = random.Random(derive_seed("latency", "throughput", batch, seed))
    with measuring(1):
        times = interleaved_times([run(model) for model in networks.values()], rounds, warmup, rng, clock) / count
    dense = times[list(networks).index("dense")]
    return {
        name: {
            "batch": batch,
            "images": count,
            "rounds": rounds,
            "dense_ms": _summary(dense),
            "compressed_ms": _summary(own),
            "speedup": ratio_of_medians(dense, own, seed=rng.getrandbits(32)),
        }
        for name, own in zip(networks, times, strict=True)
    }


def microseconds(model: nn.Module, example: Tensor, rounds: int = 30, warmup: int = 5) -> float:
    """The median time of one input in eager PyTorch with one thread."""
    with measuring(1):
        call = make_runtime("torch_eager").prepare(model.eval(), example)
        return 1e3 * float(np.median(interleaved_times([call], rounds, warmup, random.Random(0))))


def switching(
    model: Adaptive,
    load: Callable[[], nn.Module],
    rounds: int = 30,
    warmup: int = 10,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> dict[str, dict[str, float]]:
    """What another operating point costs, until its network is ready, with one thread: "switch_ms" and "reload_ms".

    The model is asked for points in a random order; a reload reads it from its files by `load` first.
    """
    rng = random.Random(derive_seed("latency", "switching", seed))
    names = list(model.operating_points)

    def reload() -> nn.Module:
        again: Any = load()
        return again.at(rng.choice(names))

    with measuring(1):
        calls = [lambda: model.at(rng.choice(names)), reload]
        switch, loading = interleaved_times(calls, rounds, warmup, rng, clock)
    return {"switch_ms": _summary(switch), "reload_ms": _summary(loading)}


def block_sums(model: Blockwise, measured: Mapping[str, float], rounds: int = 30, warmup: int = 5) -> dict[str, Any]:
    """Does a table of block latencies order the operating points as their networks do?

    Every distinct block is timed alone, in eager mode with one thread; `measured` [ms] are the networks, timed likewise.
    "sums_ms": {point: sum over its blocks}, "rank_correlation": Spearman's, of the sums and the networks.
    """
    chains = {point: model.blocks(point) for point in measured}
    names = dict.fromkeys(name for chain in chains.values() for name in chain)
    with torch.random.fork_rng(devices=[]):
        table = {name: microseconds(*model.block(name), rounds, warmup) / 1e3 for name in names}
    sums = {point: sum(table[name] for name in chain) for point, chain in chains.items()}
    return {"sums_ms": sums, "rank_correlation": rank_correlation(list(sums.values()), list(measured.values()))}


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's; of values that are all different."""
    rank_x, rank_y = np.argsort(np.argsort([x, y], axis=1), axis=1)
    return float(np.corrcoef(rank_x, rank_y)[0][1])


class _Subject:
    """A model to be timed and the output that every runtime must reproduce.

    Not `exact` are models with quantizers: only a gross difference counts there, and it costs this runtime alone.
    """

    def __init__(self, label: str, model: nn.Module, example: Tensor, exact: bool = True) -> None:
        self.label, self.model, self.exact = label, model.eval(), exact
        with torch.no_grad():
            self.expected = finite(self.model(example), f"the {label} model")

    def check(self, runtime: Runtime, output: Any) -> None:
        """Relative error in the 2-norm, up to the runtime's tolerance."""
        output = torch.as_tensor(output)
        if output.shape != self.expected.shape:
            raise OutputMismatch(
                f"{runtime.name} returns {tuple(output.shape)} for the {self.label} model, not {tuple(self.expected.shape)}"
            )
        error = ((output - self.expected).norm() / self.expected.norm().clamp_min(1e-6)).item()
        tolerance = runtime.tolerance if self.exact else GROSS
        if not error <= tolerance:
            message = (
                f"{runtime.name} differs from the {self.label} model by {error:.2g} (relative), above {tolerance:g}"
            )
            raise OutputMismatch(message) if self.exact else Skip(message)


def _measure_one(
    name: str,
    threads: int,
    pair: Sequence[_Subject],
    example: Tensor,
    rounds: int,
    warmup: int,
    rng: random.Random,
    clock: Clock,
) -> dict[str, Any]:
    runtime = make_runtime(name)
    calls = []
    for subject in pair:
        calls.append(runtime.prepare(subject.model, example))
        subject.check(runtime, calls[-1]())
    dense, compressed = interleaved_times(calls, rounds, warmup, rng, clock)
    return {
        **_about(name, threads, runtime),
        "rounds": rounds,
        "dense_ms": _summary(dense),
        "compressed_ms": _summary(compressed),
        "speedup": ratio_of_medians(dense, compressed, seed=rng.getrandbits(32)),
    }


def _about(name: str, threads: int, runtime: Runtime) -> dict[str, Any]:
    return {"runtime": name, "threads": threads, "arithmetic": runtime.arithmetic, **runtime.describe()}


def interleaved_times(
    calls: Sequence[Call],
    rounds: int,
    warmup: int,
    rng: random.Random,
    clock: Clock = time.perf_counter,
    window: float = WINDOW,
) -> Times:
    """Milliseconds per call, [len(calls), rounds]: in each round every candidate once, in a random order.

    What disturbs the machine for longer than a round then disturbs all candidates, and none always follows the same
    one into the caches. Calls shorter than `window` seconds are repeated within a round: until the timer's resolution does
    not matter, or for longer where one library must first get its threads and its code back.
    """
    repetitions = [_repetitions(call, warmup, clock, window) for call in calls]
    times = np.empty((len(calls), rounds))
    for r in range(rounds):
        for c in rng.sample(range(len(calls)), len(calls)):
            call, count = calls[c], repetitions[c]
            start = clock()
            for _ in range(count):
                call()
            times[c, r] = (clock() - start) / count * 1e3
    return times


def ratio_of_medians(numerator: Times, denominator: Times, seed: int, level: float = 0.95) -> dict[str, float]:
    """median(numerator) / median(denominator) with the percentile bootstrap interval that resamples whole rounds."""
    rounds = len(numerator)
    picks = np.random.default_rng(seed).integers(rounds, size=(RESAMPLES, rounds))
    ratios = np.median(numerator[picks], axis=1) / np.median(denominator[picks], axis=1)
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return {"median": float(np.median(numerator) / np.median(denominator)), "low": float(low), "high": float(high)}


def _repetitions(call: Call, warmup: int, clock: Clock, window: float) -> int:
    """Warm up, and find how many calls fill the window, judged by the fastest."""
    fastest = math.inf
    for _ in range(max(1, warmup)):
        start = clock()
        call()
        fastest = min(fastest, clock() - start)
    return max(1, math.ceil(window / max(fastest, 1e-7)))


def _summary(times: Times) -> dict[str, float]:
    return {"median": float(np.median(times)), "minimum": float(times.min())}


@contextlib.contextmanager
def measuring(threads: int) -> Iterator[None]:
    """The state in which inference is timed: so many threads, no autograd, no garbage collector. Restores the former.

    The deterministic mode of training also fills every new tensor with NaN, which is no part of inference: that is off.
    (`use_deterministic_algorithms` itself would do, but imports the compiler, which takes a second.)
    """
    machine.keep_freed_memory()
    deterministic: Any = torch.utils.deterministic  # a module whose attribute is a property, unknown to type checkers
    threads_before, filling = torch.get_num_threads(), deterministic.fill_uninitialized_memory
    collecting = gc.isenabled()
    torch.set_num_threads(threads)
    deterministic.fill_uninitialized_memory = False
    gc.disable()
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_num_threads(threads_before)
        deterministic.fill_uninitialized_memory = filling
        if collecting:
            gc.enable()
