"""A static fp32 ONNX graph of a model."""

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from compressbench.layers.replaceable import Replaceable, one_of

AVERAGE_POOL = Replaceable(
    nn.AvgPool2d, ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"), divisor_override=one_of(None)
)

_graphs: ContextVar[dict[tuple[object, ...], bytes] | None] = ContextVar("graphs", default=None)


@contextmanager
def exported_once() -> Iterator[None]:
    """Within it, `graph_of` exports a form of a network once, for all runtimes and numbers of threads.

    The networks must live and stay as they are for as long.
    """
    token = _graphs.set({})
    try:
        yield
    finally:
        _graphs.reset(token)


def graph_of(model: nn.Module, form: Callable[[nn.Module], nn.Module], example: Tensor) -> bytes:
    """The graph of `form(model)` as `export` makes it."""
    graphs = _graphs.get()
    if graphs is None:
        return export(form(model), example)
    key = id(model), form, example.shape
    if key not in graphs:
        graphs[key] = export(form(model), example)
    return graphs[key]


def export(model: nn.Module, example: Tensor, free: Mapping[int, str] | None = None) -> bytes:
    """The model as a serialised ONNX graph for inputs of exactly `example`'s shape. RuntimeError where it cannot be.

    free: the dimensions of input and output that may have any size -> their names.

    Uses the TorchScript exporter: about 0.05 s a model, where the newer exporter takes 3.4 s for the first model of
    a process and 0.7 s for each other, for the same graph. Its warnings say just that, and what was not constant-folded
    (ONNX Runtime folds it when it loads the graph), so they are silenced.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.AvgPool2d) and not AVERAGE_POOL.fits(module):
            raise RuntimeError(f"no ONNX graph: ONNX has no average pooling with the divisor of {name}")
    buffer: Any = io.BytesIO()  # which the TorchScript exporter takes, though the annotation has paths only
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            names: Any = {"input_names": ["input"], "output_names": ["output"]}
            if free:
                names["dynamic_axes"] = {"input": dict(free), "output": dict(free)}
            torch.onnx.export(model, (example,), buffer, dynamo=False, **names)
    except (torch.onnx.errors.OnnxExporterError, TypeError, ValueError, IndexError) as error:
        raise RuntimeError(f"no ONNX graph: {str(error).splitlines()[0]}") from error
    finally:
        log.setLevel(level)
    return buffer.getvalue()
