import pytest
import torch

from compressbench.kernels import pooling
from compressbench.kernels.native import Isa
from compressbench.kernels.pooling import GlobalMean


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
