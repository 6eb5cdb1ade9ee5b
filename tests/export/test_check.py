"""Outputs beside those of the model."""

import pytest
import torch

from compressbench.errors import UserError
from compressbench.export.check import compare

LOGITS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0], [1.0, 2.0]])


def test_differences_are_measured_and_said() -> None:
    nearly = LOGITS.clone()
    nearly[0, 0] += 3e-3
    found = compare(nearly, LOGITS, exact=True)
    assert found.largest == pytest.approx(3e-3, rel=1e-4)
    assert found.relative == pytest.approx(3e-3 / 12**0.5, rel=1e-4)
    assert found.agreement == 100
    assert str(found) == "outputs differ by at most 0.003 (0.00087 relative), the same class for 100 % of the images"


def test_a_quantizer_may_turn_a_bit_into_a_step_and_rounding_may_not() -> None:
    other = LOGITS.clone()
    other[0] = torch.tensor([0.9, 1.0])
    assert compare(other, LOGITS + 0.3, exact=False).agreement == 75
    with pytest.raises(
        UserError, match=r"differs from the model by 0\.\d+ \(relative\), above 0.001; nothing was written"
    ):
        compare(other, LOGITS, exact=True)


def test_images_have_no_class() -> None:
    images = torch.rand(2, 3, 4, 4)
    assert compare(images, images, exact=True).agreement is None


@pytest.mark.parametrize("outputs, message", [
    (LOGITS[:, :1], r"the file gives \[4, 1\], the model \[4, 2\]"),
    (LOGITS / 0, "the exported network puts out NaN or infinity"),
])  # fmt: skip
def test_something_else_is_refused(outputs: torch.Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compare(outputs, LOGITS, exact=False)
