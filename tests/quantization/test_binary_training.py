"""Training of binary networks: how many weights flip, the schedule, and what is left of it."""

from pathlib import Path

import pytest
import torch
from torch import nn

from compressbench import storage
from compressbench.layers.binary import OneBitConv2d, SignConv2d, binarise, binary_layers
from compressbench.quantization.binary_training import Flips, train_binary
from compressbench.quantization.latent_weights import BINS
from compressbench.training import Hook, State
from tests.contexts.binary import make_binary_context


def flips_of(weight: torch.Tensor, changed: torch.Tensor) -> tuple[float, float]:
    """In an epoch in which those weights of the only filter change their sign."""
    layer, hook = SignConv2d.rebuild(nn.Conv2d(1, 1, 3, bias=False), {"scaling": "none"}), Flips()
    layer.weight.data = weight.reshape(1, 1, 3, 3)
    state = State(nn.Sequential(layer), [], epochs=1, steps_per_epoch=1)
    hook.on_epoch_start(state)
    layer.weight.data = torch.where(changed, -weight, weight).reshape(1, 1, 3, 3)
    hook.on_epoch_end(state)
    return state.metrics["flips"], state.metrics["tail_flips"]


def test_a_network_of_constant_filters_has_no_tail_that_could_flip() -> None:
    assert flips_of(torch.full((9,), 0.1), torch.zeros(9) > 0) == (0.0, 0.0)
    assert flips_of(torch.full((9,), 0.1), torch.ones(9) > 0) == (100.0, 0.0)


@pytest.mark.parametrize(("changed", "flips", "tail"), [([0], 1, 100), ([3], 1, 0), ([0, 3, 4], 3, 100), ([], 0, 0)])
def test_flips_are_shares_of_all_weights_and_of_the_tail_at_the_start(
    changed: list[int], flips: int, tail: int
) -> None:
    """Of one large and eight small weights only the large one deviates by more than 1.2 times the mean deviation."""
    weight = torch.tensor([20.0, 1, -1, 1, -1, 1, -1, 1, -1])
    found = flips_of(weight, torch.isin(torch.arange(9), torch.tensor(changed)))
    assert found == pytest.approx((100 * flips / 9, tail), rel=1e-6)


class Rates(Hook):
    """The learning rate of every step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_step_end(self, state: State) -> None:
        self.seen.append(state.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize(("rate", "sixths"), [("by_epoch", [2, 2, 4, 4, 6, 6]), ("recipe", [1, 2, 3, 4, 5, 6])])
def test_training_follows_its_schedule_and_leaves_signs_and_histograms(
    rate: str, sixths: list[int], data_root: Path, tmp_path: Path
) -> None:
    """All three epochs of two steps are warm-up: the rate rises with the epochs, or with every step."""
    ctx, rates = make_binary_context(data_root, tmp_path, epochs=3, steps_per_epoch=2, warmup_epochs=3), Rates()
    model = binarise(ctx.build(), lambda layer: SignConv2d.rebuild(layer, {"scaling": "mean"}))
    trained = train_binary(ctx, model, rate=rate, hooks=[rates])  # type: ignore[arg-type]
    assert rates.seen == pytest.approx([0.1 * n / 6 for n in sixths])
    layers = binary_layers(trained)
    assert len(layers) == 4 and all(type(layer) is OneBitConv2d for layer in layers.values())
    assert all((layer.weight.abs() == 1).all() for layer in layers.values())
    latent = storage.load_tensors(ctx.folder / "latent.safetensors")
    sizes = [layer.weight.numel() for layer in layers.values()]
    assert latent["counts_before"].shape == (4, BINS) and latent["counts_after"].sum(1).tolist() == sizes
    assert ctx.records.keys() == {"ties"}
