import copy
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressbench import models
from compressbench.finite import NotFinite
from compressbench.layers.quantized import quantize_layer
from compressbench.runtimes.base import Runtime, Skip
from compressbench.timing import latency
from compressbench.timing.latency import OutputMismatch, interleaved_times, measure, ratio_of_medians


class FakeClock:
    """Time passes only in `spend`."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def register(monkeypatch) -> Callable[[type[Runtime]], None]:
    """Adds a runtime for one test."""
    added: dict[str, type[Runtime]] = {}
    monkeypatch.setattr(latency, "make_runtime", lambda name: added[name]())
    return lambda cls: added.update({cls.name: cls})


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()


class Plain(Runtime):
    """Runs the module as it is."""

    name = "plain"

    def prepare(self, model: nn.Module, example: Tensor):
        return lambda: model(example)

    def describe(self) -> dict[str, str]:
        return {"library": "none", "isa": "none"}


def test_times_are_milliseconds_per_call_whatever_the_repetitions():
    clock = FakeClock()
    calls = [lambda: clock.spend(3e-5), lambda: clock.spend(4e-3)]
    times = interleaved_times(calls, rounds=30, warmup=2, rng=random.Random(0), clock=clock)
    assert times.shape == (2, 30)
    np.testing.assert_allclose(times, [[0.03] * 30, [4.0] * 30])


def test_short_calls_are_repeated_until_the_window_is_full_and_long_ones_run_once():
    clock, counts = FakeClock(), [0, 0]

    def call(which: int, seconds: float) -> None:
        counts[which] += 1
        clock.spend(seconds)

    calls = [lambda: call(0, latency.WINDOW / 7.5), lambda: call(1, 1.0)]
    interleaved_times(calls, rounds=10, warmup=3, rng=random.Random(0), clock=clock)
    assert counts == [3 + 10 * 8, 3 + 10]


def test_every_round_runs_each_candidate_once_and_the_order_varies():
    clock, log = FakeClock(), []

    def call(which: int) -> None:
        log.append(which)
        clock.spend(1.0)

    interleaved_times([lambda: call(0), lambda: call(1)], rounds=40, warmup=1, rng=random.Random(0), clock=clock)
    rounds = [tuple(log[i : i + 2]) for i in range(2, len(log), 2)]
    assert len(rounds) == 40
    assert set(rounds) == {(0, 1), (1, 0)}
    assert 10 <= rounds.count((0, 1)) <= 30


def test_slowdown_of_the_machine_hits_both_candidates_and_leaves_the_ratio():
    clock = FakeClock()
    slow = lambda: 1 + (clock.now > 40)  # noqa: E731
    calls = [lambda: clock.spend(1.0 * slow()), lambda: clock.spend(0.5 * slow())]
    dense, compressed = interleaved_times(calls, rounds=60, warmup=1, rng=random.Random(0), clock=clock)
    ratio = ratio_of_medians(dense, compressed, seed=0)
    assert ratio["low"] <= 2.0 <= ratio["high"]


def test_ratio_without_noise_has_an_interval_of_no_width():
    ratio = ratio_of_medians(np.full(30, 6.0), np.full(30, 2.0), seed=0)
    assert ratio == {"median": 3.0, "low": 3.0, "high": 3.0}


def test_interval_covers_the_true_ratio_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        dense, compressed = (scale * rng.lognormal(0, 0.1, 40) for scale in (2.0, 1.0))
        interval = ratio_of_medians(dense, compressed, seed=trial)
        covered += interval["low"] <= 2.0 <= interval["high"]
    assert 0.90 <= covered / 200 <= 0.995


def test_interval_depends_on_nothing_but_the_times_and_the_seed():
    times = np.random.default_rng(0).lognormal(size=(2, 30))
    assert ratio_of_medians(*times, seed=5) == ratio_of_medians(*times, seed=5)
    assert ratio_of_medians(*times, seed=5) != ratio_of_medians(*times, seed=6)


def test_runtime_that_cannot_run_is_recorded_once_and_the_others_still_run(register, network):
    class Missing(Plain):
        name = "missing"

        def prepare(self, model: nn.Module, example: Tensor):
            raise Skip("needs an instruction set of the future")

    register(Plain)
    register(Missing)
    result = measure(network, network, (1, 8, 8), ("missing", "plain"), threads=(1, 2), rounds=3, warmup=1)
    assert result["skipped"] == [{"runtime": "missing", "reason": "needs an instruction set of the future"}]
    assert [(m["runtime"], m["threads"]) for m in result["measurements"]] == [("plain", 1), ("plain", 2)]


@pytest.mark.parametrize("wrong, message", [(lambda y: y * 1.1, "differs"), (lambda y: y[:, :1], "returns")])
def test_runtime_that_computes_something_else_is_an_error(register, network, wrong, message):
    class Wrong(Plain):
        name = "wrong"

        def prepare(self, model: nn.Module, example: Tensor):
            return lambda: wrong(model(example))

    register(Wrong)
    with pytest.raises(OutputMismatch, match=f"wrong {message}.*dense model"):
        measure(network, network, (1, 8, 8), ("wrong",), threads=(1,), rounds=3)


def test_quantized_model_may_differ_by_rounding_steps_and_is_skipped_beyond(register, network):
    factor = {"steps": 1.1, "nonsense": 2.0}
    quantized = copy.deepcopy(network)
    quantized[0] = quantize_layer(quantized[0], weight_bits=4, input_bits=32)
    for name, wrong in factor.items():

        class Off(Plain):
            def prepare(self, model: nn.Module, example: Tensor, wrong: float = wrong):
                return lambda: model(example) * (wrong if model is quantized else 1.0)

        register(type(name, (Off,), {"name": name}))
    result = measure(network, quantized, (1, 8, 8), tuple(factor), threads=(1,), rounds=2, warmup=1)
    assert [m["runtime"] for m in result["measurements"]] == ["steps"]
    assert [s["runtime"] for s in result["skipped"]] == ["nonsense"]


def test_output_that_is_not_a_number_is_an_error(register, network):
    class Broken(Plain):
        name = "broken"

        def prepare(self, model: nn.Module, example: Tensor):
            return lambda: model(example) * float("nan")

    register(Broken)
    with pytest.raises(OutputMismatch):
        measure(network, network, (1, 8, 8), ("broken",), threads=(1,), rounds=3)


@pytest.mark.parametrize("label", ["dense", "compressed"])
def test_network_that_puts_out_no_number_is_named_and_not_timed(register, network, label):
    register(Plain)
    networks = {"dense": network, "compressed": network, label: nn.Sequential(*network[:-1], nn.Linear(4 * 36, 3))}
    nn.init.constant_(networks[label][-1].bias, float("nan"))
    with pytest.raises(NotFinite, match=f"the {label} model puts out NaN or infinity"):
        measure(networks["dense"], networks["compressed"], (1, 8, 8), ("plain",), threads=(1,), rounds=3)


def test_threads_and_the_deterministic_mode_are_set_while_measuring_and_restored(register, network):
    torch.utils.deterministic.fill_uninitialized_memory = True
    seen = []

    class Spy(Plain):
        name = "spy"

        def prepare(self, model: nn.Module, example: Tensor):
            filling = torch.utils.deterministic.fill_uninitialized_memory
            seen.append((torch.get_num_threads(), torch.is_grad_enabled(), filling))
            return super().prepare(model, example)

    register(Spy)
    before = torch.get_num_threads()
    measure(network, network, (1, 8, 8), ("spy",), threads=(2, 1), rounds=2, warmup=1)
    assert seen == [(1, False, False)] * 2 + [(2, False, False)] * 2
    assert torch.get_num_threads() == before
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_one_thread_and_all_cores_are_measured_unless_told_otherwise(register, network):
    register(Plain)
    result = measure(network, network, (1, 8, 8), ("plain",), rounds=2, warmup=1)
    assert [m["threads"] for m in result["measurements"]] == sorted({1, result["machine"]["cores"]})


def test_simulated_quantizers_are_named(register, network):
    register(Plain)
    quantized = copy.deepcopy(network)
    quantized[0] = quantize_layer(quantized[0], weight_bits=4, input_bits=32)
    result = measure(network, quantized, (1, 8, 8), ("plain",), threads=(1,), rounds=2, warmup=1)
    assert result["simulated"] == ["quant_conv2d"]


def test_real_measurement_has_the_published_form_and_finite_positive_numbers():
    torch.manual_seed(0)
    dense = models.build("plain", widths=[16, 32], strides=[1, 2])
    smaller = models.build("plain", widths=[4, 4], strides=[2, 2])
    result = measure(dense, smaller, (1, 28, 28), threads=(1,), rounds=30, warmup=3)
    assert set(result) == {"batch", "input_shape", "machine", "simulated", "measurements", "skipped"}
    assert (result["batch"], result["input_shape"], result["simulated"]) == (1, [1, 28, 28], [])
    assert set(result["machine"]) == {"cpu", "cores", "isa", "memory_gib", "system"}
    assert [m["runtime"] for m in result["measurements"]] == list(latency.DEFAULT_RUNTIMES)
    for m in result["measurements"]:
        keys = ["runtime", "threads", "arithmetic", "library", "isa", "rounds", "dense_ms", "compressed_ms", "speedup"]
        assert list(m) == keys
        for side in ("dense_ms", "compressed_ms"):
            assert 0 < m[side]["minimum"] <= m[side]["median"] < 1e4
        assert 0 < m["speedup"]["low"] <= m["speedup"]["median"] <= m["speedup"]["high"] < 1e4
