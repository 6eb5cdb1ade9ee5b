"""A pair of networks measured in several fresh processes, one after the other.

A speed-up differs between processes (where memory lies, which form a library chooses) by more than its rounds do, so that the
interval of one process says too much. Preparation takes longer than the rounds of a small network: the first process measures
everything, and each other one what is compared, the runtimes on which a network is fastest with one thread.
"""

import functools
import multiprocessing
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import numpy as np

from compressbench.errors import UserError

Content = dict[str, Any]
Wanted = Mapping[str, Collection[str]]
Measure = Callable[[int, Wanted | None], Content]
"""(process, operating point -> runtimes to measure with one thread; None: everything) -> the content of latency.json."""
Result = TypeVar("Result")

COMPARED = ("fp32", "int8")
"""The arithmetic in which the quality of compressed networks is known."""
SIDES = ("dense_ms", "compressed_ms")


def repeated(measure: Measure, processes: int) -> Content:
    """The content of latency.json out of so many processes.

    Every measurement has "processes": the medians of each; what several of them measured has the median of their medians, and
    the median of their speed-ups with an interval that covers those of all. Where processes cannot be forked safely,
    the present one measures alone.
    """
    if processes == 1 or sys.platform != "linux":
        return _merged([measure(0, None)])
    first = in_fresh_process(functools.partial(measure, 0, None))
    wanted = {point: compared_runtimes(own["measurements"]) for point, own in networks(first).items()}
    others = [in_fresh_process(functools.partial(measure, process, wanted)) for process in range(1, processes)]
    return _merged([first, *others])


def networks(content: Content) -> dict[str, Content]:
    """What was measured of each operating point; of the network itself, called "", where it has none."""
    points: dict[str, Content] = content.get("points", {"": content})
    return points


def compared_runtimes(measurements: Iterable[Mapping[str, Any]]) -> set[str]:
    """With one thread and for each arithmetic of COMPARED: where the dense and where the compressed network is fastest."""
    found = set()
    for arithmetic in COMPARED:
        own = [m for m in measurements if (m["threads"], m["arithmetic"]) == (1, arithmetic)]
        found |= {min(own, key=lambda m: m[side]["median"])["runtime"] for side in SIDES if own}
    return found


def in_fresh_process(work: Callable[[], Result]) -> Result:
    """What `work` returns in a forked process; raises what it raises. The present one must have computed with one thread only.

    Raises:
        UserError: when the process was killed.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(work, sender), daemon=True)
    process.start()
    sender.close()
    try:
        result, error = receiver.recv()
    except EOFError:
        raise UserError("a process that measures was killed; see whether the machine ran out of memory.") from None
    finally:
        process.join()
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]


def _send(work: Callable[[], Any], sender: Connection) -> None:
    try:
        sender.send((work(), None))
    except Exception as error:
        sender.send((None, error))


def _merged(contents: Sequence[Content]) -> Content:
    """The first content, with what the others measured again."""
    for point, own in networks(contents[0]).items():
        again = [networks(other)[point] for other in contents[1:]]
        _merge(own["measurements"], [a["measurements"] for a in again], ("runtime", "threads"))
        _merge(own.get("throughput", []), [a.get("throughput", []) for a in again], ("batch",))
    return contents[0]


def _merge(rows: list[Content], again: Sequence[list[Content]], keys: Sequence[str]) -> None:
    for row in rows:
        same = [row, *(r for other in again for r in other if all(r[key] == row[key] for key in keys))]
        row["processes"] = [{side: r[side]["median"] for side in SIDES} for r in same]
        if len(same) > 1:
            row |= {"rounds": sum(r["rounds"] for r in same)} | {
                side: _times([r[side] for r in same]) for side in SIDES
            }
            row["speedup"] = _covering([r["speedup"] for r in same])


def _times(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {"median": float(np.median([e["median"] for e in each])), "minimum": min(e["minimum"] for e in each)}


def _covering(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    median = float(np.median([e["median"] for e in each]))
    return {"median": median, "low": min(e["low"] for e in each), "high": max(e["high"] for e in each)}
