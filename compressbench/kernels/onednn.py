"""oneDNN, the library of PyTorch's dense layers: weights packed beforehand, and which of its kernels a call executed."""

import ctypes
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.backends import mkldnn


def packed_convolution(
    weight: Tensor,
    bias: Tensor | None,
    input_shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Callable[[Tensor], Tensor] | None:
    """x [1, c_in, H, W] -> conv2d(x, weight, bias), in channels_last, for one input size.

    None where PyTorch was built without oneDNN.
    """
    if not mkldnn.is_available():
        return None
    reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
    convolve: Any = torch.ops.mkldnn._convolution_pointwise
    geometry = (list(padding), list(stride), list(dilation), groups)
    packed = reorder(weight.detach().to_mkldnn(), *geometry, list(input_shape))
    return lambda x: convolve(x, packed, bias, *geometry, "none", [], "")  # type: ignore[no-any-return]


def implementations(call: Callable[[], object]) -> set[str]:
    """Names like "jit:avx512_core" of the oneDNN kernels that convolve and multiply matrices in one run of `call`.

    Empty when PyTorch chose its native kernels, as eager mode does for one small image on one thread. oneDNN tells only
    its standard output, so the file descriptor is redirected for the time of the call.
    """
    if not mkldnn.is_available() or os.name != "posix":
        return set()
    sys.stdout.flush()
    original = os.dup(1)
    with tempfile.TemporaryFile() as output:
        os.dup2(output.fileno(), 1)
        try:
            with mkldnn.verbose(mkldnn.VERBOSE_ON):
                call()
            ctypes.CDLL(None).fflush(None)
        finally:
            os.dup2(original, 1)
            os.close(original)
        output.seek(0)
        text = output.read().decode(errors="replace")
    return set(re.findall(r"exec,cpu,(?:convolution|inner_product|matmul),([^,]+),", text))


def version() -> str:
    """Of the oneDNN that PyTorch was built with."""
    found = re.search(r"MKL-DNN v(\S+)", torch.__config__.show())
    return found[1] if found else "unknown"
