"""Tests of the page of published structures."""

import pandas as pd

from compressbench.reporting.structures import best_times


def test_each_network_counts_where_it_is_fastest() -> None:
    row = {"method": "m", "model": "n", "setting": "s", "macs_reduction": 0.75, "params_cut": 0.5}
    times = [("a", 10.0, 4.0), ("b", 8.0, 6.0)]
    table = pd.DataFrame([row | {"runtime": e, "dense_ms": d, "latency_ms": c} for e, d, c in times])
    best = best_times(table).iloc[0]
    assert (best.dense_ms, best.dense_runtime, best.ms, best.runtime) == (8.0, "b", 4.0, "a")
    assert best.time_reduction == 0.5
