"""What the unstructured methods may be told, and what they record."""

from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compressbench.pruning.config import PruningConfig, record_densities
from compressbench.pruning.masks import apply_masks


@pytest.mark.parametrize("wrong", [{"sparsity": 1.0}, {"sparsity": -0.1}, {"scope": "kernel"}, {"density": 0.1}])
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PruningConfig(**wrong)


def test_nothing_may_be_removed_and_everything_is_compared_by_default() -> None:
    assert PruningConfig(sparsity=0).sparsity == 0
    assert (PruningConfig().scope, PruningConfig().keep_first, PruningConfig().keep_last) == ("global", False, False)


def test_the_kept_share_of_every_masked_layer_is_recorded() -> None:
    model, recorded = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 5), nn.Linear(5, 1)), {}
    masks = {"0": torch.arange(8).reshape(2, 4) < 2, "1": torch.arange(10).reshape(5, 2) % 2 == 0}
    record_densities(SimpleNamespace(record=recorded.__setitem__), apply_masks(model, masks))
    assert recorded == {"density_0": 0.25, "density_1": 0.5}
