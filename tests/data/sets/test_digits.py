"""The digits, enlarged and normalised."""

import pytest

from compressbench import data
from compressbench.errors import UserError


def test_real_digits(data_root):
    loaded = data.load("digits", data_root / "data")
    assert loaded.train.images.shape == (1_200, 1, 16, 16)
    assert len(loaded.train) + len(loaded.validation) + len(loaded.test) == 1_797
    assert all(len(split.labels.unique()) == 10 for split in (loaded.train, loaded.validation, loaded.test))
    assert abs(loaded.train.images.mean()) < 0.001 and abs(loaded.train.images.std() - 1) < 0.001


@pytest.mark.parametrize("content", [None, b"", b"1,2,3\n", b"\xff\xfe", b"a,b\n"])
def test_damaged_digits_are_named(tmp_path, content):
    (tmp_path / "digits").mkdir()
    if content is not None:
        (tmp_path / "digits/digits.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"digits\.csv is"):
        data.load("digits", tmp_path)
