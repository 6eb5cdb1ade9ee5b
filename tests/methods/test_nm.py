"""N:M sparsity: the pattern, one shot and fine-tuning, and the straight-through variant from scratch."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from compressbench import models, storage
from compressbench.config import Pair
from compressbench.layers.masked import MaskedConv2d, MaskedLinear, masked, masked_layers
from compressbench.method import Context
from compressbench.pruning.masks import Masks, apply_masks, prunable, set_masks
from compressbench.pruning.trained_masks import STRAIGHT_THROUGH
from compressbench.training import Hook, State, fit
from compressbench.training.checkpoint import Checkpoint, same_bits
from methods.baselines.nm.method import NM, Reselection, nm_mask, nm_masks
from tests.contexts import RECIPE, full_size_context, make_context

LAMBDA = 2e-4


def straight_through(model: nn.Module, masks: Masks) -> nn.Module:
    set_masks(masked(model, masks, forms=STRAIGHT_THROUGH), masks)
    return model


def nm(**options: object) -> NM:
    return NM(NM.Config(**options))


def groups(t: Tensor, m: int = 4) -> Tensor:
    """[c_out, c_in, k, k] or [out, in] -> rows of m consecutive inputs."""
    return (t.permute(0, 2, 3, 1) if t.dim() == 4 else t).reshape(-1, m)


def plain_context(data_root: Path, folder: Path, stage: str = "compress", **recipe: object) -> Context:
    """A context on the digits whose (untrained) dense model is a small plain network."""
    (folder / "dense").mkdir(exist_ok=True)
    (folder / "dense" / "model.json").touch()
    ctx = make_context(data_root, folder, stage)
    arguments = {"in_channels": 1, "widths": [8, 16, 16], "strides": [2, 1, 2]}
    chosen = RECIPE | {"lr": 0.05} | recipe
    ctx.pair = Pair.model_validate(
        {"architecture": "plain", "arguments": arguments, "scratch": chosen, "pretrain": chosen, "finetune": chosen}
    )
    storage.save_model(ctx.build(), folder / "dense")
    return ctx


# ---- the pattern


def test_the_two_largest_of_four_stay() -> None:
    assert nm_mask(torch.tensor([[0.1, -0.4, 0.3, 0.2]]), 2, 4).tolist() == [[False, True, True, False]]


def test_of_equal_weights_the_earlier_stays() -> None:
    weight = torch.tensor([[0.2, 0.2, -0.2, 0.2, 0.1, 0.3, 0.1, -0.1]])
    assert nm_mask(weight, 2, 4).int().tolist() == [[1, 1, 0, 0, 1, 1, 0, 0]]


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 8)])
@pytest.mark.parametrize("shape", [(6, 16, 3, 3), (5, 8, 1, 1), (10, 24)])
def test_every_group_of_input_channels_keeps_its_n_largest(shape: tuple[int, ...], n: int, m: int) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    mask = nm_mask(weight, n, m)
    assert mask.shape == weight.shape and mask.dtype == torch.bool
    kept, values = groups(mask, m), groups(weight.abs(), m)
    assert (kept.sum(1) == n).all()
    assert (values.masked_fill(~kept, 9).amin(1) >= values.masked_fill(kept, 0).amax(1)).all()


def test_groups_lie_along_the_input_channels_of_one_kernel_position() -> None:
    weight = torch.zeros(1, 4, 3, 3)
    weight[0, [1, 3], 2, 0] = 1.0
    assert nm_mask(weight, 2, 4)[0, :, 2, 0].tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("name", "dense", "weights", "eligible"),
    [
        ("resnet50", 1, 25502912, 25502912 - 9408),
        ("mobilenet_v1", 14, 4209088, 4209088 - 864 - 9 * 4960),
    ],
)
def test_first_and_depthwise_layers_stay_dense(name: str, dense: int, weights: int, eligible: int) -> None:
    model = models.build(name)
    layers = prunable(model)
    masks = nm_masks(model, 2, 4)
    without = [layers[n] for n in layers if n not in masks]
    assert len(without) == dense
    assert all(layer.weight.shape[1] in (1, 3) for layer in without)
    assert sum(layer.weight.numel() for layer in layers.values()) == weights
    assert sum(mask.numel() for mask in masks.values()) == eligible
    assert sum(int(mask.sum()) for mask in masks.values()) * 2 == eligible
    assert "classifier" in masks and "classifier" not in nm_masks(model, 2, 4, keep_last=True)


@pytest.mark.parametrize("options", [{"n": 4}, {"n": 0}, {"n": 2, "m": 2}, {"source": "random"}, {"decay": -1}])
def test_wrong_hyper_parameters_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        NM.Config(**options)


# ---- one shot


def test_one_shot_keeps_half_of_every_eligible_layer_through_fine_tuning(data_root: Path, tmp_path: Path) -> None:
    ctx, method = plain_context(data_root, tmp_path), nm()
    model = method.compress(ctx)
    dense = ctx.dense()
    assert list(masked_layers(model)) == ["body.1.conv", "body.2.conv", "classifier"]
    assert ctx.records["density_body.0.conv"] == 1.0
    assert {"validation_top1_pruned", "validation_top1_recalibrated"} <= set(ctx.records)
    masks = {name: layer.mask.clone() for name, layer in masked_layers(model).items()}
    for name, mask in masks.items():
        assert ctx.records[f"density_{name}"] == 0.5
        assert torch.equal(model.get_submodule(name).weight, dense.get_submodule(name).weight * mask)
    tuned = method.finetune(plain_context(data_root, tmp_path, "finetune"), model)
    for name, layer in masked_layers(tuned).items():
        assert torch.equal(layer.mask, masks[name])
        assert torch.equal(groups(layer.weight != 0), groups(layer.mask))
        assert (groups(layer.weight != 0).sum(1) == 2).all()
        assert not torch.equal(layer.weight, dense.get_submodule(name).weight * layer.mask)


# ---- from scratch


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(72, 3)
    )


def batch(step: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(step)
    return torch.randn(8, 2, 7, 7, generator=random), torch.randint(3, (8,), generator=random)


def cross_entropy(model: nn.Module, pair: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(pair[0]), pair[1])


def test_forward_is_that_of_the_masked_network_to_the_bit() -> None:
    one, other = network(), network()
    straight_through(one, nm_masks(one, 2, 4))
    apply_masks(other, nm_masks(other, 2, 4))
    images, _ = batch(0)
    assert list(masked_layers(one)) == ["3", "5"]
    assert torch.equal(one(images), other(images))


def test_gradient_goes_straight_to_all_weights_with_a_pull_on_the_removed_ones() -> None:
    model = network()
    masks = nm_masks(model, 2, 4)
    straight_through(model, masks)
    reference = network()
    apply_masks(reference, masks)
    for name, mask in masks.items():  # plain layers that hold M * W: their gradient is G
        reference.get_submodule(name).mask.fill_(True)
        assert torch.count_nonzero(reference.get_submodule(name).weight[~mask]) == 0
    for net in (model, reference):
        cross_entropy(net, batch(0)).backward()
    Reselection(2, 4, LAMBDA).on_gradients(State(model, [], 1, 1))
    for name, mask in masks.items():
        layer, g = model.get_submodule(name), reference.get_submodule(name).weight.grad
        assert torch.count_nonzero(layer.weight[~mask]) > 0
        assert torch.allclose(layer.weight.grad, g + LAMBDA * ~mask * layer.weight, rtol=1e-5, atol=1e-8)
        assert torch.equal(layer.weight.grad[mask], g[mask])


def train(model: nn.Module, *hooks: Hook, checkpoint: Checkpoint | None = None) -> nn.Module:
    straight_through(model, nm_masks(model, 2, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    return fit(
        model, batch, cross_entropy, [optimizer],
        epochs=3, steps_per_epoch=4, seed=0, hooks=[Reselection(2, 4, LAMBDA), *hooks], checkpoint=checkpoint,
    )  # fmt: skip


def test_masks_follow_the_weights_at_every_step() -> None:
    seen: list[Tensor] = []

    class Watch(Hook):
        def on_step_end(self, state: State) -> None:
            for layer in masked_layers(state.model).values():
                assert torch.equal(layer.mask, nm_mask(layer.weight, 2, 4))
            seen.append(masked_layers(state.model)["3"].mask.clone())

    train(network(), Watch())
    assert len(seen) == 12 and not torch.equal(seen[0], seen[-1])


def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    class Kill(Hook):
        def on_step_end(self, state: State) -> None:
            if state.step == 6:
                raise KeyboardInterrupt

    whole = train(network(), checkpoint=Checkpoint(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        train(network(), Kill(), checkpoint=Checkpoint(tmp_path / "killed"))
    assert same_bits(whole.state_dict(), train(network(), checkpoint=Checkpoint(tmp_path / "killed")).state_dict())


def test_from_scratch_ends_as_a_plain_masked_network(data_root: Path, tmp_path: Path) -> None:
    ctx, method = plain_context(data_root, tmp_path, epochs=2), nm(source="scratch")
    model = method.compress(ctx)
    for layer in masked_layers(model).values():
        assert type(layer) in (MaskedConv2d, MaskedLinear)
        assert (groups(layer.weight != 0).sum(1) == 2).all()
        assert torch.equal(layer.weight != 0, layer.mask)
    images = ctx.data.test.images[:8]
    storage.save_model(model, tmp_path / "stored")
    assert torch.equal(storage.load_model(tmp_path / "stored")(images), model(images))
    state = {name: t.clone() for name, t in model.state_dict().items()}
    tuned = method.finetune(plain_context(data_root, tmp_path, "finetune"), model)
    assert same_bits(tuned.state_dict(), state), "the budget from scratch is the whole one"


# ---- full size


@pytest.mark.parametrize("setting", ["dense", "scratch"])
def test_one_iteration_at_full_size(setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("methods.baselines.nm.method.record_untrained_quality", lambda *_: None)  # 100 forward passes
    monkeypatch.setattr(Checkpoint, "save", lambda *_: None)  # seconds of writing that other tests cover
    ctx = full_size_context(tmp_path, "imagenet/resnet50", "nm", "nm24_p50")
    method = nm(source=setting)
    model = method.finetune(ctx, method.compress(ctx))
    layers = masked_layers(model)
    assert len(layers) == 53 and sum(int(layer.mask.sum()) for layer in layers.values()) * 2 == 25502912 - 9408
    start = dict(ctx.build().named_parameters())
    assert all(not torch.equal(p, start[name]) for name, p in model.named_parameters())
    assert all(torch.count_nonzero(layer.weight[~layer.mask]) == 0 for layer in layers.values())
