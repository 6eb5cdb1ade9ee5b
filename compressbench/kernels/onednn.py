"""A dense convolution whose weights oneDNN has reordered beforehand for one input size."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def packed_convolution(
    weight: Tensor,
    bias: Tensor | None,
    input_shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Callable[[Tensor], Tensor] | None:
    """x [1, c_in, H, W] -> conv2d(x, weight, bias), in channels_last; None where PyTorch was built without oneDNN."""
    if not torch.backends.mkldnn.is_available():
        return None
    reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
    convolve: Any = torch.ops.mkldnn._convolution_pointwise
    geometry = (list(padding), list(stride), list(dilation), groups)
    packed = reorder(weight.detach().to_mkldnn(), *geometry, list(input_shape))
    return lambda x: convolve(x, packed, bias, *geometry, "none", [], "")  # type: ignore[no-any-return]
