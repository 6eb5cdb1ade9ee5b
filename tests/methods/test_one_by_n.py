"""1xN: the published counts and the acceptance checks of its specification."""

import csv
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from compressbench import accounting, models, storage
from compressbench.config import Pair, Recipe
from compressbench.errors import UserError
from compressbench.layers.masked import masked_layers
from compressbench.method import Context
from compressbench.pruning.blocks import block_mask, encode_bsr, prunable_layers, rearranged_block_mask, rearrangement
from compressbench.pruning.masks import apply_masks
from compressbench.training import fit, schedule_factor
from methods.one_by_n.method import OneByN, published
from tests.contexts import RECIPE, make_context

FOLDER = Path(__file__).parents[2] / "methods" / "one_by_n"
COUNTED = ("macs", "weights", "params", "prunable_weights", "kept_weights", "weight_bytes")


def plain_context(data_root: Path, folder: Path, stage: str = "compress") -> Context:
    """A context on the digits whose dense model is a small plain network."""
    (folder / "dense").mkdir(exist_ok=True)
    (folder / "dense" / "model.json").touch()
    ctx = make_context(data_root, folder, stage)
    arguments = {"in_channels": 1, "widths": [8, 16, 16], "strides": [2, 1, 2]}
    recipe = RECIPE | {"lr": 0.05}
    ctx.pair = Pair.model_validate(
        {"architecture": "plain", "arguments": arguments, "scratch": recipe, "pretrain": recipe, "finetune": recipe}
    )
    storage.save_model(ctx.build(), folder / "dense")
    return ctx


def method(**options: object) -> OneByN:
    return OneByN(OneByN.Config(**{"schedule": "recipe"} | options))


def network(name: str, **arguments: object) -> nn.Module:
    """Trained-looking batch norms, eval mode, double precision."""
    torch.manual_seed(0)
    model = models.build(name, **arguments).double().eval()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return model


def images(*shape: int) -> torch.Tensor:
    return torch.randn(4, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


# ---- published counts


def test_facts_are_the_published_counts() -> None:
    recomputed = {(f.model, f.setting, f.metric): f.value for f in OneByN.published_counts()}
    with (FOLDER / "published.csv").open(encoding="utf-8") as file:
        counts = [r for r in csv.DictReader(file) if r["metric"] in COUNTED]
    assert len(counts) == 66
    wrong = [r for r in counts if recomputed.get((r["model"], r["setting"], r["metric"])) != int(r["value"])]
    assert not wrong


def test_a_pruned_mobilenet_v2_costs_what_the_facts_say() -> None:
    model = models.build("mobilenet_v2")
    one_by_n = method(n=4, sparsity=0.5)
    one_by_n.apply(model, one_by_n.masks(model))
    counts = accounting.account(model, (3, 224, 224))
    assert (counts.dense_macs, counts.macs) == (300_774_272, 166_804_352)
    assert (counts.weights, counts.kept_weights, counts.params) == (3_469_760, 2_407_424, 3_504_872)
    assert accounting.stored_bytes(model, "bsr", rest=False) == 10_702_056


# ---- the pattern in a network


def test_n_that_does_not_divide_is_an_error_that_names_the_layer() -> None:
    with pytest.raises(UserError, match=r"blocks\.1\.project\.conv: n = 16 does not divide its 24"):
        method(n=16).masks(models.build("mobilenet_v2"))


def test_straddling_masks_are_not_stored_in_blocks() -> None:
    model = models.build("mobilenet_v2", classes=10)
    one_by_n = method(n=16, straddle=True)
    one_by_n.apply(model, one_by_n.masks(model))
    layers = masked_layers(model)
    assert layers["blocks.1.project.conv"].block is None
    assert layers["blocks.1.expand.conv"].block == 16
    assert {float(m.mask.float().mean()) for m in layers.values()} == {0.5}


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
def test_first_and_depthwise_layers_and_the_classifier_never_carry_a_mask(name: str) -> None:
    model = models.build(name, classes=10)
    one_by_n = method(n=4)
    masked = masked_layers(one_by_n.apply(model, one_by_n.masks(model)))
    assert all(m.groups == 1 and m.in_channels > 3 for m in masked.values())
    assert not any(name.startswith("classifier") for name in masked)


@pytest.mark.parametrize(
    ("name", "arguments", "shape"),
    [
        ("plain", {"widths": (8, 12, 12), "strides": (2, 1, 2)}, (1, 14, 14)),
        ("resnet_cifar", {"in_channels": 1, "widths": (4, 8, 8), "blocks": (1, 1, 1), "shortcut": "conv"}, (1, 14, 14)),
        ("mobilenet_v3_small", {"classes": 10}, (3, 32, 32)),
    ],
)
def test_physical_rearrangement_equals_scattered_masks(name: str, arguments: dict, shape: tuple[int, ...]) -> None:
    one_by_n = method(n=4, sparsity=0.6)
    virtual, physical = network(name, **arguments), network(name, **arguments)
    scattered = method(n=4, sparsity=0.6, rearrange=False).masks(virtual)
    for coupling in (c for c in virtual.inner_couplings() if c.producer in scattered):
        weight = virtual.get_submodule(coupling.producer).weight
        scattered[coupling.producer] = rearranged_block_mask(weight, 4, 0.6)
        if coupling.gates:  # its outputs move along, and are grouped in the new order
            order, gate = rearrangement(weight), coupling.gates[1]
            scattered[gate][order] = block_mask(virtual.get_submodule(gate).weight[order], 4, 0.6)
    apply_masks(virtual, scattered)
    one_by_n.apply(physical, one_by_n.masks(physical))
    expected = virtual(images(*shape))
    assert torch.allclose(physical(images(*shape)), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    for layer in masked_layers(physical).values():
        k2 = layer.weight[0, 0].numel()
        stored = len(encode_bsr(layer.weight, layer.mask, 4).indices)
        assert stored * 4 == int(layer.mask.sum()) and stored % k2 == 0, "kept blocks * k * k"


def test_masked_network_equals_its_decoded_blocks() -> None:
    one_by_n, model = method(n=4, sparsity=0.5), network("plain", widths=(8, 12), strides=(2, 1))
    one_by_n.apply(model, one_by_n.masks(model))
    decoded = network("plain", widths=(8, 12), strides=(2, 1))
    state = {k: v for k, v in model.state_dict().items() if not k.endswith(".mask")}
    for name, layer in masked_layers(model).items():
        state[f"{name}.weight"] = encode_bsr(layer.weight, layer.mask, 4).decode().view_as(layer.weight)
    decoded.load_state_dict(state)
    assert torch.allclose(decoded(images(1, 14, 14)), model(images(1, 14, 14)), atol=1e-4)


def test_as_published_rearranges_shortcuts_in_the_mask_only() -> None:
    arguments = {"in_channels": 1, "widths": (4, 8, 8), "blocks": (1, 1, 1), "shortcut": "conv"}
    followed, published = network("resnet_cifar", **arguments), network("resnet_cifar", **arguments)
    for model, as_published in ((followed, False), (published, True)):
        one_by_n = method(n=4, as_published=as_published)
        one_by_n.apply(model, one_by_n.masks(model))
    name = "stages.1.0.shortcut.conv"
    masks = [masked_layers(model)[name] for model in (followed, published)]
    assert [m.block for m in masks] == [4, None]
    assert not torch.equal(masks[0].mask, masks[1].mask)
    dense = network("resnet_cifar", **arguments).get_submodule(name)
    assert torch.equal(masks[1].mask, rearranged_block_mask(dense.weight, 4, 0.5))


def test_the_classifier_is_pruned_on_request() -> None:
    model = models.build("plain", classes=12)
    assert "classifier" not in method().masks(model)
    mask = method(prune_classifier=True, sparsity=0.5).masks(model)["classifier"]
    assert mask.shape == (12, 64) and float(mask.float().mean()) == 0.5
    assert prunable_layers(model)[-1] == "body.4.conv"


@pytest.mark.parametrize("options", [{"n": 0}, {"sparsity": 1.1}, {"sparsity": -0.1}, {"rows": "even"}, {"N": 4}])
def test_wrong_hyper_parameters_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        OneByN.Config(**options)


# ---- gradients and training


def test_gradient_is_zero_where_removed_and_the_dense_one_elsewhere() -> None:
    conv = nn.Conv2d(6, 8, 3, padding=1, bias=False)
    model = nn.Sequential(conv)
    mask = rearranged_block_mask(conv.weight, 4, 0.5)
    x = torch.randn(2, 6, 5, 5, generator=torch.Generator().manual_seed(0))
    apply_masks(model, {"0": mask}, block=4)
    dense = (conv.weight.detach() * mask).requires_grad_()
    F.conv2d(x, dense, padding=1).square().sum().backward()
    model(x).square().sum().backward()
    assert torch.equal(model[0].weight.grad[~mask], torch.zeros(int((~mask).sum())))
    assert torch.equal(model[0].weight.grad[mask], dense.grad[mask])


def test_mask_and_removed_weights_do_not_change_in_training() -> None:
    torch.manual_seed(0)
    model = models.build("plain", widths=(8, 8), strides=(2, 1))
    one_by_n = method(n=4, sparsity=0.5)
    one_by_n.apply(model, one_by_n.masks(model))
    layer = masked_layers(model)["body.1.conv"]
    before, kept = layer.mask.clone(), layer.weight[layer.mask].clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    batch = torch.randn(8, 1, 12, 12), torch.randint(10, (8,))
    fit(
        model, lambda step: batch, lambda m, b: F.cross_entropy(m(b[0]), b[1]), [optimizer],
        epochs=1, steps_per_epoch=10, seed=0,
    )  # fmt: skip
    assert torch.equal(layer.mask, before) and not torch.equal(layer.weight[before], kept)
    assert torch.count_nonzero(layer.effective_weight()[~before]) == 0
    assert torch.count_nonzero(layer.weight[~before]) == 0


@pytest.mark.parametrize(
    ("epoch", "step", "rate"),
    [
        (0, 0, 1.98297e-5),
        (2, 0, 4.00766e-3),
        (4, 99, 9.99659e-3),
        (5, 0, 0.01),
        (47, 50, 5.09239e-3),
        (89, 0, 3.41470e-6),
    ],
)
def test_published_learning_rate(epoch: int, step: int, rate: float) -> None:
    recipe = published(Recipe(epochs=90, lr=0.01, schedule="step", milestones=(30,)))
    factor = schedule_factor(recipe, recipe.epochs, 100)
    assert recipe.lr * factor(100 * epoch + step) == pytest.approx(rate, rel=1e-5)


def test_published_schedule_needs_more_epochs_than_its_warmup(data_root: Path, tmp_path: Path) -> None:
    ctx = plain_context(data_root, tmp_path, "finetune")
    with pytest.raises(UserError, match="schedule: recipe"):
        OneByN(OneByN.Config()).finetune(ctx, ctx.dense())


# ---- the stages


def test_stages_leave_a_stored_block_sparse_model_of_the_same_function(data_root: Path, tmp_path: Path) -> None:
    ctx = plain_context(data_root, tmp_path)
    one_by_n = method(n=4, sparsity=0.75)
    model = one_by_n.compress(ctx)
    assert {"empty_groups", "unread_inputs", "kept_l1", "validation_top1_recalibrated"} <= set(ctx.records)
    masks = {name: layer.mask.clone() for name, layer in masked_layers(model).items()}
    tuned = one_by_n.finetune(plain_context(data_root, tmp_path, "finetune"), model)
    for name, layer in masked_layers(tuned).items():
        assert torch.equal(layer.mask, masks[name])
        assert torch.count_nonzero(layer.weight[~layer.mask]) == 0
    storage.save_model(tuned, tmp_path / "stored")
    stored, x = storage.load_model(tmp_path / "stored"), ctx.data.test.images[:8]
    assert {m.block for m in masked_layers(stored).values()} == {4}
    assert torch.equal(stored(x), tuned(x))


@pytest.mark.parametrize(
    ("options", "moves"), [({}, True), ({"freeze_classifier_bias": True}, False), ({"as_published": True}, False)]
)
def test_classifier_bias_is_frozen_as_published(
    data_root: Path, tmp_path: Path, options: dict[str, object], moves: bool
) -> None:
    ctx = plain_context(data_root, tmp_path, "finetune")
    model = ctx.dense()
    before = model.classifier.bias.clone()
    tuned = method(**options).finetune(ctx, model)
    assert torch.equal(tuned.classifier.bias, before) != moves
    assert all(p.requires_grad for p in tuned.parameters())
