import os
import signal
from typing import Any

import pytest

from compressbench.errors import UserError
from compressbench.timing.repetition import compared_runtimes, in_fresh_process, repeated

FASTER = {"eager": (4.0, 3.0), "onnx": (2.0, 1.5), "ours": (2.5, 1.0), "bf16": (1.0, 0.9), "integer": (3.0, 0.8)}


def measurement(runtime: str, process: int = 0, threads: int = 1) -> dict[str, Any]:
    """The compressed network takes `process` ms more."""
    dense, compressed = FASTER[runtime]
    compressed += process
    arithmetic = {"bf16": "bf16", "integer": "int8"}.get(runtime, "fp32")
    ratio = dense / compressed
    return {
        "runtime": runtime, "threads": threads, "arithmetic": arithmetic, "rounds": 10,
        "dense_ms": {"median": dense, "minimum": dense}, "compressed_ms": {"median": compressed, "minimum": compressed},
        "speedup": {"median": ratio, "low": 0.9 * ratio, "high": 1.1 * ratio},
    }  # fmt: skip


def measure(process: int, wanted: Any) -> dict[str, Any]:
    if wanted is None:
        rows = [measurement(name, process, threads) for name in FASTER for threads in (1, 2)]
    else:
        rows = [measurement(name, process) for name in FASTER if name in wanted[""]]
    return {"measurements": rows, "process": os.getpid()}


def test_only_the_runtimes_on_which_a_network_is_fastest_are_compared() -> None:
    assert compared_runtimes(measure(0, None)["measurements"]) == {"onnx", "ours", "integer"}
    assert compared_runtimes([measurement("ours", threads=2)]) == set()


def test_what_several_processes_measured_covers_all_of_their_intervals() -> None:
    result = repeated(measure, 3)
    rows = {(m["runtime"], m["threads"]): m for m in result["measurements"]}
    ours, alone = rows["ours", 1], rows["eager", 1]
    assert [p["compressed_ms"] for p in ours["processes"]] == [1.0, 2.0, 3.0]
    assert (ours["compressed_ms"], ours["rounds"]) == ({"median": 2.0, "minimum": 1.0}, 30)
    assert ours["speedup"] == pytest.approx({"median": 1.25, "low": 0.9 * 2.5 / 3, "high": 1.1 * 2.5})
    assert (len(alone["processes"]), alone["rounds"], alone["speedup"]) == (1, 10, measurement("eager")["speedup"])
    assert len(rows["ours", 2]["processes"]) == 1
    assert result["process"] != os.getpid()


def test_one_process_is_the_present_one_and_changes_no_number() -> None:
    result, alone = repeated(measure, 1), measure(0, None)
    assert result["process"] == os.getpid()
    assert [{**m, "processes": 0} for m in result["measurements"]] == [
        m | {"processes": 0} for m in alone["measurements"]
    ]


def test_operating_points_and_batches_are_merged_one_by_one() -> None:
    def points(process: int, wanted: Any) -> dict[str, Any]:
        if wanted is not None:
            assert wanted == {"low": {"onnx"}, "high": {"ours"}}
        own = {"low": "onnx", "high": "ours"}
        batch = measurement("eager", process) | {"batch": 64}
        return {
            "points": {
                p: {"measurements": [measurement(r, process)], "throughput": [dict(batch)]} for p, r in own.items()
            }
        }

    found = repeated(points, 2)["points"]
    assert [len(found[p]["measurements"][0]["processes"]) for p in ("low", "high")] == [2, 2]
    assert found["low"]["throughput"][0]["compressed_ms"] == {"median": 3.5, "minimum": 3.0}


def test_a_sentence_of_the_process_is_raised_here() -> None:
    def fail() -> None:
        raise UserError("a sentence.")

    with pytest.raises(UserError, match=r"a sentence\."):
        in_fresh_process(fail)


def test_a_killed_process_is_a_sentence() -> None:
    with pytest.raises(UserError, match="was killed"):
        in_fresh_process(lambda: os.kill(os.getpid(), signal.SIGKILL))
