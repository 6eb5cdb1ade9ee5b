import pytest
import torch
from torch.nn import functional as F

from compressbench.kernels import pooling
from compressbench.kernels.native import Isa
from compressbench.kernels.pooling import GlobalMean, MaxPool2d


@pytest.mark.parametrize("isa", [None, Isa.TORCH])
@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 64, 1, 1), (3, 17, 8, 8)])
def test_it_is_the_mean_of_every_channel(shape, isa, monkeypatch: pytest.MonkeyPatch) -> None:
    if isa is not None:
        monkeypatch.setattr(pooling, "best_isa", lambda: isa)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(GlobalMean(shape[1:])(x), x.mean((2, 3), keepdim=True))


def test_another_size_than_the_planned_one_is_refused() -> None:
    with pytest.raises(ValueError, match="x must have shape"):
        GlobalMean((4, 3, 3))(torch.zeros(1, 4, 3, 2))


@pytest.mark.parametrize("isa", list(Isa))
@pytest.mark.parametrize(
    ("shape", "geometry"),
    [((2, 5, 23, 40), (3, 2, 1)), ((1, 4, 7, 9), (2, 2, 0)), ((1, 3, 5, 4), (5, 1, 2)), ((3, 2, 8, 3), (3, 3, 1))],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_it_is_the_maximum_of_every_window(shape, geometry, isa, threads, monkeypatch: pytest.MonkeyPatch) -> None:
    if isa > pooling.best_isa():
        pytest.skip("not on this processor")
    monkeypatch.setattr(pooling, "best_isa", lambda: isa)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x[0, 1, 2, 1], x[0, 0, 3, 3 % shape[3] - 1] = float("nan"), float("-inf")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        result = MaxPool2d(shape[1:], *geometry)(x)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(result, F.max_pool2d(x, *geometry), rtol=0, atol=0, equal_nan=True)


def test_more_padding_than_half_the_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="more than half"):
        MaxPool2d((4, 8, 8), 3, 2, 2)
