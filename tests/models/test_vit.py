"""Vision transformers, and CF-ViT's two passes: the acceptance checks of its specification that need no training."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from compressbench import models, storage
from compressbench.accounting import account
from compressbench.errors import UserError
from compressbench.method.operating_points import Adaptive, ImageDependent
from compressbench.models.vit import Coarse, CoarseOnly, CoarseToFineViT, EarlyExit, child_tokens

MINI = {
    "image_size": 28,
    "padding": 2,
    "patch": 4,
    "width": 32,
    "depth": 4,
    "heads": 2,
    "mlp_ratio": 2,
    "in_channels": 1,
    "classes": 5,
}
LV = {"image_size": 32, "patch": 4, "width": 32, "depth": 4, "heads": 2, "classes": 5, "embedding": "convolutional",
      "qkv_bias": False, "branch_scale": 0.5, "token_head": True}  # fmt: skip


def network(seed: int = 0, backbone: dict[str, Any] = MINI, **arguments: Any) -> CoarseToFineViT:
    """In float64, with weights that make attention differ from token to token."""
    torch.manual_seed(seed)
    model = models.build("coarse_to_fine_vit", backbone=backbone, first_layer=1, **arguments).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return model


def images(count: int = 6, channels: int = 1, side: int = 28) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def padded(count: int = 6) -> Tensor:
    return network().backbone.pad(images(count))


# ---- regions


def test_children_of_a_7x7_grid() -> None:
    children = child_tokens(7)
    assert set(children[0].tolist()) == {0, 1, 14, 15}
    assert set(children[8].tolist()) == {30, 31, 44, 45}
    assert set(children[48].tolist()) == {180, 181, 194, 195}
    assert Counter(children.flatten().tolist()) == Counter(range(196))


@pytest.mark.parametrize("alpha, refined", [(0.1, 5), (0.3, 15), (0.5, 25), (0.7, 35), (1.0, 49)])
def test_the_number_of_refined_regions_is_rounded_up(alpha: float, refined: int) -> None:
    with torch.device("meta"):
        assert models.build("coarse_to_fine_vit", alpha=alpha).refined == refined


def test_a_region_covers_its_pixels() -> None:
    """Changing one 8x8 region of the image changes exactly the four fine patches below its coarse patch."""
    model, x = network(), padded(1)
    changed = x.clone()
    changed[:, :, 8:16, 16:24] += 1
    patches = model.backbone.patches(changed) - model.backbone.patches(x)
    assert set(patches.abs().sum(2).nonzero()[:, 1].tolist()) == set(child_tokens(4)[1 * 4 + 2].tolist())


def test_refining_everything_is_no_selection() -> None:
    model = network(alpha=1.0)
    selected = model(images())
    model.regions = "all"
    assert torch.allclose(selected, model(images()), atol=1e-10)


def test_the_order_of_the_fine_tokens_does_not_matter() -> None:
    model, x = network(), padded()
    coarse = model.coarse(x)
    tokens = model.select(model.fine_sequence(x, coarse), coarse, model.order(coarse))
    order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(tokens.shape[1] - 1)])
    logits, permuted = (model.backbone.logits(model.backbone.encode(t)) for t in (tokens, tokens[:, order]))
    assert tokens.shape[1] == 1 + 4 * 8 + 8
    assert torch.allclose(logits, permuted, atol=1e-10)


def test_unrefined_regions_keep_the_input_of_the_coarse_pass() -> None:
    model, x = network(), padded()
    coarse = model.coarse(x)
    order = model.order(coarse)
    tokens = model.select(model.fine_sequence(x, coarse), coarse, order)
    for row in range(len(x)):
        assert torch.equal(tokens[row, 1 + 4 * 8 :], coarse.tokens[row, 1 + order[row, 8:]])


@pytest.mark.parametrize("regions", ["top", "all"])
def test_every_fine_cell_is_covered_by_its_token(regions: str) -> None:
    model, x = network(), padded()
    model.regions = regions  # type: ignore[assignment]
    coarse = model.coarse(x)
    fine, cells = model.fine_sequence(x, coarse), model.cells(coarse)
    tokens = fine if regions == "all" else model.select(fine, coarse, model.order(coarse))
    for row, order in enumerate(model.order(coarse)):
        for rank, region in enumerate(order.tolist()):
            for cell in child_tokens(4)[region].tolist():
                expected = fine[row, 1 + cell] if rank < 8 or regions == "all" else coarse.tokens[row, 1 + region]
                assert torch.equal(tokens[row, cells[row, cell]], expected)


def test_controls_refine_other_regions() -> None:
    model, x = network(), padded()
    coarse = model.coarse(x)
    chosen = {}
    for regions in ("top", "lowest", "random"):
        model.regions = regions
        chosen[regions] = model.order(coarse)
    assert torch.equal(chosen["lowest"], chosen["top"].flip(1))
    assert not torch.equal(chosen["random"].sort().indices, chosen["top"].sort().indices)
    assert (chosen["random"].sort().values == torch.arange(16)).all()


# ---- attention and reuse


def test_global_class_attention_of_equal_layers() -> None:
    """Layers without a residual change see the same tokens; with equal weights they have equal attention A."""
    model, x = network(), padded()
    vit = model.backbone
    first = vit.blocks[0]
    for block in vit.blocks:
        block.load_state_dict(first.state_dict())
        block.branch_scale = 0
    coarse = model.coarse(x)
    q, k, _ = first.attention.qkv(first.norm1(coarse.tokens)).unflatten(2, (3, 2, 16)).permute(2, 0, 3, 1, 4)
    attention = (q @ k.transpose(2, 3) / 4).softmax(3)  # [B, H, T, T]
    counted = len(vit.blocks) - model.first_layer
    assert torch.allclose(coarse.attention, (1 - 0.99**counted) * attention.mean(1)[:, 0, 1:], atol=1e-12)


def test_attention_is_summed_from_the_first_layer_on_without_renormalising() -> None:
    model, x = network(), padded()
    tokens, expected = model.coarse(x).tokens, torch.zeros(())
    for layer, block in enumerate(model.backbone.blocks):
        tokens, row = block(tokens, True)
        if layer >= 1:
            expected = 0.99 * expected + 0.01 * row
    assert torch.allclose(model.coarse(x).attention, expected[:, 1:])
    assert not model.coarse(x).attention.requires_grad


def test_the_class_token_is_not_reused() -> None:
    model, x = network(), padded()
    fine = model.fine_sequence(x, model.coarse(x))
    expected = model.backbone.class_token[0, 0] + model.backbone.positions[0, 0]
    assert (fine[:, 0] == expected).all()


def test_without_reuse_the_fine_sequence_ignores_the_coarse_pass() -> None:
    model, x = network(), padded()
    for parameter in model.reuse[1][2].parameters():
        torch.nn.init.zeros_(parameter)
    coarse = model.coarse(x)
    other = coarse._replace(features=torch.randn_like(coarse.features))
    assert torch.equal(model.fine_sequence(x, coarse), model.fine_sequence(x, other))


def test_features_are_reused_in_their_own_region() -> None:
    model, x = network(), padded(1)
    coarse = model.coarse(x)
    features = coarse.features.clone()
    features[0, 1 + 6] += torch.randn(32, dtype=torch.float64)
    difference = model.fine_sequence(x, coarse._replace(features=features)) - model.fine_sequence(x, coarse)
    assert set((difference.abs().sum(2).nonzero()[:, 1] - 1).tolist()) == set(child_tokens(4)[6].tolist())


# ---- the exit rule


def test_threshold_0_is_the_coarse_pass_and_above_1_both() -> None:
    model = network()
    assert torch.equal(EarlyExit(model, 0)(images()), CoarseOnly(model)(images()))
    assert torch.allclose(EarlyExit(model, 1.01)(images()), model(images()), atol=1e-12)
    assert (EarlyExit(model, 0).exit_fraction([images()]), EarlyExit(model, 1.01).exit_fraction([images()])) == (1, 0)


def confidences(model: CoarseToFineViT, x: Tensor) -> Tensor:
    return CoarseOnly(model)(x).softmax(1).amax(1)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_compacted_batch_predicts_as_one_image_at_a_time(count: int) -> None:
    model, x = network(), images(count)
    for threshold in (0, *(confidences(model, x) + 1e-9).tolist(), 1.01):
        network_at = EarlyExit(model, threshold)
        singly = torch.cat([network_at(image[None]) for image in x])
        assert torch.allclose(network_at(x), singly, atol=1e-10)


def test_only_undecided_images_see_the_second_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = network(), images(9)
    seen: list[int] = []

    def fine(images: Tensor, coarse: Coarse, original: Any = model.fine) -> Tensor:
        seen.append(len(images))
        return original(images, coarse)

    monkeypatch.setattr(model, "fine", fine)
    third = confidences(model, x).sort().values[3].item()
    for threshold in (0, third, 1.01):
        EarlyExit(model, threshold)(x)
    assert seen == [3, 9]


def test_the_exit_fraction_falls_with_the_threshold() -> None:
    model, x = network(), images(40)
    fractions = [EarlyExit(model, i / 100).exit_fraction(x.split(16)) for i in range(102)]
    assert fractions == sorted(fractions, reverse=True)
    assert (fractions[0], fractions[-1]) == (1, 0)


def test_mean_macs_are_affine_in_the_exit_fraction() -> None:
    model, x = network(), images(10)
    coarse, both = account(CoarseOnly(model), x.shape).macs, account(model, x.shape).macs
    median = confidences(model, x).sort().values[5].item()
    assert EarlyExit(model, 0).mean_macs(x.split(4)) == coarse
    assert EarlyExit(model, 1.01).mean_macs(x.split(4)) == both
    assert EarlyExit(model, median).mean_macs(x.split(4)) == pytest.approx((coarse + both) / 2)


# ---- operating points and storage


def test_operating_points_share_the_weights(tmp_path: Any) -> None:
    storage.save_model(network(thresholds=[0.25, 0.5]).float(), tmp_path)
    model: Any = storage.load_model(tmp_path)
    assert isinstance(model, Adaptive)
    assert model.operating_points == {
        "coarse": "coarse pass only", "t25": "threshold 0.25", "t50": "threshold 0.5", "both": "both passes"
    }  # fmt: skip
    for point in model.operating_points:
        at = model.at(point)
        assert not at.training
        assert isinstance(at, ImageDependent) == point.startswith("t")
        assert {p.data_ptr() for p in at.parameters()} == {p.data_ptr() for p in model.parameters()}


def test_a_shrunk_transformer_reads_the_coarse_patches() -> None:
    torch.manual_seed(0)
    coarse = models.build("vit", **MINI, shrink=2).eval()
    assert coarse.positions.shape == (1, 17, 32)
    model, x = network(), images()
    expected, vit = CoarseOnly(model)(x), model.backbone
    vit.positions, vit.shrink, vit.side = model.coarse_positions, 2, 16
    assert torch.allclose(vit(x), expected)


def test_lv_vit_adds_a_quarter_of_the_largest_token_logit() -> None:
    model, x = network(backbone=LV), images(2, 3, 32)
    vit, coarse = model.backbone, model.coarse(x)
    features = model.fine(x, coarse)
    class_logits, token_logits = vit.classifier(features[:, 0]), vit.token_head(features[:, 1:])
    assert torch.allclose(model(x), class_logits + 0.25 * token_logits.max(1).values)
    expected = vit.classifier(coarse.features[:, 0]) + 0.25 * vit.token_head(coarse.features[:, 1:]).max(1).values
    assert torch.allclose(coarse.logits, expected / 1.25)


def test_half_of_every_residual_branch_is_added_in_lv_vit() -> None:
    block = network(backbone=LV).backbone.blocks[0]
    x = torch.randn(2, 65, 32, dtype=torch.float64)
    middle = x + block.attention(block.norm1(x))[0] / 2
    assert torch.allclose(block(x)[0], middle + block.mlp(block.norm2(middle)) / 2)


def test_drop_path_keeps_the_mean_and_rests_in_evaluation() -> None:
    torch.manual_seed(0)
    vit = models.build("vit", **MINI | {"drop_path": 0.3})
    rates = [block.drop_path.rate for block in vit.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])
    drop, x = vit.blocks[3].drop_path, torch.ones(20000, 1, 1)
    assert drop.train()(x).mean().item() == pytest.approx(1, abs=0.02)
    assert drop(x).unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert torch.equal(drop.eval()(x), x)


@pytest.mark.parametrize("arguments, message", [
    ({"backbone": MINI | {"padding": 0}}, "twice the coarse one"),
    ({"backbone": MINI | {"image_size": 27}}, "no whole number of 4-pixel patches"),
    ({"backbone": MINI | {"heads": 3}}, "cannot be shared by 3 heads"),
    ({"backbone": MINI | {"shrink": 2}}, "not shrunk"),
    ({"backbone": MINI | {"embedding": "mlp"}}, "'linear' or 'convolutional'"),
    ({"backbone": MINI, "alpha": 0.0}, "alpha"),
    ({"backbone": MINI, "alpha": 1.1}, "alpha"),
    ({"backbone": MINI, "beta": 1.0}, "beta"),
    ({"backbone": MINI, "first_layer": 4}, "first_layer 4 leaves no attention of 4 layers"),
    ({"backbone": MINI, "thresholds": [0.7, 0.5]}, "thresholds must rise"),
])  # fmt: skip
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        models.build("coarse_to_fine_vit", **{"first_layer": 1} | arguments)


def test_a_negative_threshold_is_an_error() -> None:
    with pytest.raises(ValueError, match="negative"):
        EarlyExit(network(), -0.1)
