"""A form stands only for modules all of whose settings it reads."""

import pytest
import torch
from torch import nn

from compressbench.layers.replaceable import (
    BATCH_NORM,
    CONVOLUTION,
    LINEAR,
    ZERO_PADDED,
    Replaceable,
    equal_pair,
    numbers,
    one_of,
)


class Doubled(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Renamed(nn.Conv2d):
    """Computes what its base does."""


def hooked() -> nn.Conv2d:
    layer = nn.Conv2d(2, 2, 3)
    layer.register_forward_hook(lambda module, inputs, output: output * 2)
    return layer


def patched() -> nn.Conv2d:
    layer = nn.Conv2d(2, 2, 3)
    layer.forward = lambda x: x  # type: ignore[method-assign]
    return layer


@pytest.mark.parametrize(
    ("module", "fits", "covers"),
    [
        (nn.Conv2d(2, 4, 3, 2, 1, groups=2), True, True),
        (Renamed(2, 4, 3), True, True),
        (Doubled(2, 4, 3), True, False),
        (patched(), True, False),
        (hooked(), False, False),
        (nn.ConvTranspose2d(2, 4, 3), False, False),
        (nn.Linear(2, 4), False, False),
    ],
    ids=["plain", "derived", "with a forward of its own", "patched", "hooked", "transposed", "linear"],
)
def test_a_form_covers_what_computes_as_its_kind_does(module: nn.Module, fits: bool, covers: bool) -> None:
    assert (CONVOLUTION.fits(module), CONVOLUTION.covers(module)) == (fits, covers)


def test_a_form_that_has_never_heard_of_an_argument_fits_nothing() -> None:
    class Later(nn.Conv2d):
        def __init__(self, *args: int, flipped: bool = False) -> None:
            super().__init__(*args)
            self.flipped = flipped

    reads = CONVOLUTION.reads
    assert Replaceable(nn.Conv2d, reads).covers(nn.Conv2d(2, 2, 3))
    assert not Replaceable(nn.Conv2d, set(reads) - {"dilation"}).fits(nn.Conv2d(2, 2, 3)), "whatever its value"
    assert not Replaceable(Later, ("args",)).covers(Later(2, 2, 3))
    known = Replaceable(Later, ("args",), flipped=one_of(False))
    assert known.covers(Later(2, 2, 3)) and not known.fits(Later(2, 2, 3, flipped=True))


def test_values_that_a_form_does_not_compute_are_left_to_pytorch() -> None:
    assert ZERO_PADDED.covers(nn.Conv2d(2, 2, 3)) and not ZERO_PADDED.covers(nn.Conv2d(2, 2, 3, padding_mode="reflect"))
    square = Replaceable(nn.Conv2d, CONVOLUTION.reads, stride=equal_pair, padding=numbers)
    assert square.covers(nn.Conv2d(2, 2, 3, stride=2))
    assert not square.covers(nn.Conv2d(2, 2, 3, stride=(1, 2))) and not square.covers(
        nn.Conv2d(2, 2, 3, padding="same")
    )
    assert LINEAR.covers(nn.Linear(2, 2, bias=False))


def test_a_normalisation_needs_its_running_statistics() -> None:
    assert BATCH_NORM.covers(nn.BatchNorm2d(3)) and BATCH_NORM.covers(nn.BatchNorm2d(3, affine=False))
    assert not BATCH_NORM.covers(nn.BatchNorm2d(3, track_running_stats=False))
    assert not BATCH_NORM.fits(nn.BatchNorm1d(3))
