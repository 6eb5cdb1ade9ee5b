from collections import Counter
from functools import partial

import pytest

from compressbench.kernels import autotune


def test_the_fastest_is_the_one_with_the_smallest_minimum_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(autotune.time, "perf_counter", lambda: now)
    seconds = {"cold once": [0.1, 3.0, 3.0, 3.0], "noisy": [9.0, 9.0, 1.0, 9.0], "steady": [2.0, 2.0, 2.0, 2.0]}

    def form(name: str) -> None:
        nonlocal now
        now += seconds[name].pop(0)

    assert autotune.fastest({name: partial(form, name) for name in list(seconds)}, warmup=1, rounds=3) == "noisy"
    assert not any(seconds.values())


def test_what_was_chosen_is_repeated_without_a_trial_and_later_choices_are_tried() -> None:
    ran: list[str] = []
    slow, fast = (partial(ran.append, name) for name in ("slow", "fast"))
    with autotune.recording() as made, autotune.repeating([1]):
        assert autotune.fastest({"a": slow, "b": fast}) == "b"
        assert not ran
        assert autotune.fastest({"only": slow}) == "only"
    assert ran and made == [1, 0]
    ran.clear()
    with autotune.repeating([5]):
        assert autotune.fastest({"a": slow}) == "a"
    assert ran, "a choice that does not exist here is made anew"


def test_hopeless_forms_are_run_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    now, ran = 0.0, Counter[str]()
    monkeypatch.setattr(autotune.time, "perf_counter", lambda: now)

    def form(name: str, seconds: float) -> None:
        nonlocal now
        now += seconds
        ran[name] += 1

    forms = {name: partial(form, name, seconds) for name, seconds in {"fast": 1.0, "near": 1.4, "far": 1.6}.items()}
    assert autotune.fastest(forms, warmup=2, rounds=3, hopeless=1.5) == "fast"
    assert ran == {"fast": 5, "near": 5, "far": 3}
