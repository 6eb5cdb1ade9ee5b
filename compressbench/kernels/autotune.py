"""The fastest of a few ways to do the same thing."""

import math
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

Call = Callable[[], Any]
Name = TypeVar("Name", bound=Hashable)


def fastest(forms: Mapping[Name, Call], warmup: int = 3, rounds: int = 5) -> Name:
    """The name of the fastest, by minimum of a few interleaved runs."""
    best = dict.fromkeys(forms, math.inf)
    for trial in range(warmup + rounds):
        for name, form in forms.items():
            start = time.perf_counter()
            form()
            if trial >= warmup:
                best[name] = min(best[name], time.perf_counter() - start)
    return min(best, key=best.__getitem__)
