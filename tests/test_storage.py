"""Models on disk: rebuilt without the method's code, and damage is named."""

from pathlib import Path

import pytest
import torch

from compressbench import models, storage
from compressbench.errors import UserError
from compressbench.files import read_json, write_json
from compressbench.layers.masked import MaskedConv2d, masked, masked_layers


def masked_network() -> torch.nn.Module:
    torch.manual_seed(0)
    model = masked(models.build("plain", in_channels=1))
    for layer in masked_layers(model).values():
        layer.mask.copy_(torch.rand_like(layer.weight) > 0.5)
    return model.eval()


def test_a_masked_model_comes_back_to_the_bit(tmp_path: Path) -> None:
    model = masked_network()
    storage.save_model(model, tmp_path)
    loaded = storage.load_model(tmp_path)
    images = torch.randn(2, 1, 28, 28)
    assert isinstance(next(iter(masked_layers(loaded).values())), MaskedConv2d)
    assert torch.equal(model(images), loaded(images))


def test_truncated_tensors_are_named(tmp_path: Path) -> None:
    storage.save_model(masked_network(), tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model.safetensors is damaged or truncated.*delete it"):
        storage.load_model(tmp_path)


def test_damaged_description_is_named(tmp_path: Path) -> None:
    storage.save_model(masked_network(), tmp_path)
    (tmp_path / "model.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"model.json is damaged"):
        storage.load_model(tmp_path)


def test_description_of_another_model_is_refused(tmp_path: Path) -> None:
    storage.save_model(masked_network(), tmp_path)
    description = read_json(tmp_path / "model.json")
    description["arguments"]["in_channels"] = 3
    write_json(tmp_path / "model.json", description)
    with pytest.raises(UserError, match="do not fit together"):
        storage.load_model(tmp_path)


def test_missing_model_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; run the stage"):
        storage.load_model(tmp_path)
