"""Tests of ONNX Runtime: threads, results in place, and what it cannot run."""

import builtins
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compressbench.runtimes.base import Skip
from compressbench.runtimes.onnxruntime import OnnxRuntime

X = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def test_a_session_has_as_many_threads_as_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    import onnxruntime

    seen: list[Any] = []
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda graph, options, providers: seen.append(options))
    OnnxRuntime().session(b"")
    assert [(o.intra_op_num_threads, o.inter_op_num_threads) for o in seen] == [(2, 1)]


def test_calls_write_into_the_same_output_and_read_the_image_where_it_is() -> None:
    model, x = nn.Conv2d(3, 4, 3).eval(), X.clone()
    call = OnnxRuntime().prepare(model, x)
    first = call()
    x.zero_()
    with torch.no_grad():
        torch.testing.assert_close(torch.as_tensor(call()), model(x))
    assert call() is first


def test_a_network_that_returns_something_else_than_floats_is_skipped() -> None:
    class Classes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.argmax(1)

    with pytest.raises(Skip, match=r"returns a tensor\(int64\), not float32"):
        OnnxRuntime().prepare(Classes().eval(), X)


def test_without_the_library_the_network_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    known: Callable[..., Any] = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(name=name)
        return known(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(Skip, match="onnxruntime is not installed"):
        OnnxRuntime().prepare(nn.Conv2d(3, 4, 3).eval(), X)
