"""Bicubic enlargement as a method of the suite."""

from pathlib import Path

import torch

from compressbench import storage
from methods.baselines.bicubic.method import Bicubic
from tests.contexts.super_resolution import make_sr_context


def test_it_is_stored_like_any_other_network(tmp_path: Path) -> None:
    compressed = Bicubic(Bicubic.Config()).compress(make_sr_context(tmp_path, "compress"))
    storage.save_model(compressed, tmp_path / "model")
    low = torch.rand(1, 3, 8, 8) * 300 - 20
    assert torch.equal(storage.load_model(tmp_path / "model")(low), compressed(low))
