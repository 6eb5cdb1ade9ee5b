"""The mean over windows is PyTorch's."""

import pytest
import torch
from torch.nn import functional as F

from compressbench.kernels import average_pool
from compressbench.kernels.average_pool import AveragePool2d
from compressbench.kernels.native import Isa


@pytest.mark.parametrize("isa", [None, Isa.TORCH])
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize(
    ("shape", "kernel", "stride"), [((2, 5, 7, 4), 2, 2), ((1, 3, 8, 8), 3, 2), ((1, 2, 5, 6), 1, 2)]
)
def test_it_is_the_mean_of_what_is_inside_the_window(shape, kernel, stride, ceil, isa, monkeypatch) -> None:
    if isa is not None:
        monkeypatch.setattr(average_pool, "best_isa", lambda: isa)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = F.avg_pool2d(x, kernel, stride, ceil_mode=ceil)
    torch.testing.assert_close(AveragePool2d(shape[1:], kernel, stride, ceil)(x), expected)


def test_another_size_than_the_planned_one_is_refused() -> None:
    with pytest.raises(ValueError, match="x must have shape"):
        AveragePool2d((4, 3, 3), 2, 2)(torch.zeros(1, 4, 3, 2))
