"""ImageNet, which is not loaded."""

import pytest

from compressbench import data
from compressbench.errors import UserError


def test_nobody_is_told_to_download_what_cannot_be_loaded(tmp_path):
    with pytest.raises(UserError, match="imagenet does not fit in memory"):
        data.load("imagenet", tmp_path)
