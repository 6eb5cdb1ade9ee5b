"""Costs of compressed networks against the figures of the papers; most networks are not even allocated."""

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from compressbench import accounting, models
from compressbench.accounting import (
    CONVENTIONS,
    COUNTERS,
    LayerCount,
    account,
    bsr_bytes,
    counter,
    flops,
    kept_count,
    layer_table,
    stored_bytes,
    weight_layers,
)
from compressbench.errors import UserError
from compressbench.layers.masked import mask_layer
from compressbench.torchvision_compat import torchvision

IMAGENET, CIFAR = (3, 224, 224), (3, 32, 32)


def build_meta(architecture: str, **arguments: object) -> nn.Module:
    with torch.device("meta"):
        return models.build(architecture, **arguments)


def block_mask(weight: Tensor, block: int, rate: float) -> Tensor:
    """Removes int(rate * blocks) blocks of `block` output channels of one input channel."""
    rows, columns = weight.shape[0] // block, weight.shape[1]
    kept = torch.ones(rows * columns, dtype=torch.bool)
    kept[: int(rate * (rows * columns))] = False
    blocks = kept.view(rows, 1, columns, *[1] * (weight.dim() - 2))
    return blocks.expand(rows, block, columns, *weight.shape[2:]).reshape(weight.shape)


def prunable(architecture: str, name: str, layer: nn.Module) -> bool:
    """1x1 convolutions of MobileNets; everything inside the stages of a ResNet."""
    if architecture == "resnet50":
        return name.startswith("stages")
    return isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)


def pruned(architecture: str, block: int | None, rate: float, classifier: bool = False) -> nn.Module:
    model = build_meta(architecture)
    for name, layer in weight_layers(model):
        if prunable(architecture, name, layer) or (classifier and name == "classifier"):
            layer.mask = block_mask(layer.weight, block or 1, rate)
            layer.block = block
    return model


def quantized(model: nn.Module, bits: int, prefixes: tuple[str, ...] = ("",)) -> nn.Module:
    for name, layer in weight_layers(model):
        if name.startswith(prefixes):
            layer.weight_bits = layer.input_bits = bits
    return model


# ---- masks (1xN, N = 4)

ONE_BY_FOUR = [
    ("mobilenet_v1", False, 0.5, 298_994_176, 2_639_296),
    ("mobilenet_v1", False, 0.7, 191_131_064, 2_011_400),
    ("mobilenet_v1", False, 0.9, 83_251_292, 1_383_488),
    ("mobilenet_v2", False, 0.5, 166_804_352, 2_407_424),
    ("mobilenet_v2", False, 0.7, 113_331_828, 1_982_556),
    ("mobilenet_v2", False, 0.9, 59_711_520, 1_557_612),
    ("mobilenet_v3_small", False, 0.5, 35_501_888, 2_099_336),
    ("mobilenet_v3_small", False, 0.7, 27_124_456, 1_928_800),
    ("mobilenet_v3_small", False, 0.9, 18_711_524, 1_758_188),
    ("mobilenet_v3_large", False, 0.5, 121_455_104, 4_026_056),
    ("mobilenet_v3_large", False, 0.7, 83_480_128, 3_456_004),
    ("mobilenet_v3_large", False, 0.9, 45_436_144, 2_885_920),
    ("resnet50", False, 0.5, 2_104_623_104, 13_780_160),
    ("resnet50", False, 0.7, 1_311_181_784, 9_091_436),
    ("resnet50", False, 0.9, 517_317_496, 4_402_324),
    ("resnet50", True, 0.5, 2_103_599_104, 12_756_160),
    ("resnet50", True, 0.7, 1_309_748_184, 7_657_836),
    ("resnet50", True, 0.9, 515_474_296, 2_559_124),
]


@pytest.mark.parametrize("architecture, classifier, rate, macs, weights", ONE_BY_FOUR)
def test_remaining_macs_of_one_by_four(
    architecture: str, classifier: bool, rate: float, macs: int, weights: int
) -> None:
    counts = account(pruned(architecture, 4, rate, classifier), IMAGENET)
    assert (counts.macs, counts.kept_weights) == (macs, weights)


PRUNABLE_WEIGHTS = {
    "mobilenet_v1": 3_139_584,
    "mobilenet_v2": 2_124_672,
    "mobilenet_v3_small": 852_992,
    "mobilenet_v3_large": 2_850_432,
    "resnet50": 23_445_504,
}


@pytest.mark.parametrize("architecture", PRUNABLE_WEIGHTS)
def test_prunable_weights(architecture: str) -> None:
    model = build_meta(architecture)
    sizes = (layer.weight.numel() for name, layer in weight_layers(model) if prunable(architecture, name, layer))
    assert sum(sizes) == PRUNABLE_WEIGHTS[architecture]


def test_masks_leave_the_dense_counts_alone() -> None:
    counts = account(pruned("mobilenet_v2", 4, 0.5), IMAGENET)
    assert (counts.dense_macs, counts.weights, counts.params) == (300_774_272, 3_469_760, 3_504_872)


# ---- stored bytes


@pytest.mark.parametrize("architecture, block, rate, form, size", [
    ("mobilenet_v1", 4, 0.5, "dense", 16_836_352),
    ("mobilenet_v1", 4, 0.5, "bsr", 12_132_980),
    ("mobilenet_v1", 16, 0.5, "bsr", 10_951_172),
    ("mobilenet_v1", None, 0.5, "csr", 16_860_212),
    ("mobilenet_v1", 4, 0.9, "bsr", 5_853_940),
    ("mobilenet_v1", None, 0.9, "csr", 6_813_596),
    ("mobilenet_v2", 4, 0.5, "dense", 13_879_040),
    ("mobilenet_v2", 4, 0.5, "bsr", 10_702_056),
    ("mobilenet_v2", None, 0.5, "csr", 13_918_728),
])  # fmt: skip
def test_stored_bytes_of_sparse_networks(
    architecture: str, block: int | None, rate: float, form: str, size: int
) -> None:
    assert stored_bytes(pruned(architecture, block, rate), form, rest=False) == size


def test_best_format_never_exceeds_dense() -> None:
    model = pruned("mobilenet_v1", None, 0.5)
    assert stored_bytes(model, "csr", rest=False) > stored_bytes(model, "dense", rest=False)
    assert stored_bytes(model, "best", rest=False) <= stored_bytes(model, "dense", rest=False)


def test_blocks_count_whole_columns_of_the_flattened_kernel() -> None:
    layer = nn.Conv2d(3, 8, 3)
    layer.mask = block_mask(layer.weight, 4, 0.5)
    kept_blocks = 3 * 9
    assert bsr_bytes(layer, 4) == 4 * (kept_blocks * 4 + kept_blocks + 8 // 4 + 1)


def test_a_scattered_mask_empties_no_block() -> None:
    layer = nn.Conv2d(4, 8, 1)
    layer.mask = (torch.arange(8)[:, None] + torch.arange(4)) % 2 == 0
    layer.mask = layer.mask[:, :, None, None]
    assert bsr_bytes(layer, 2) == 4 * (32 + 16)


def test_rows_of_equal_length_need_no_pointers() -> None:
    layer = nn.Conv2d(4, 8, 1)
    layer.mask = torch.zeros(8, 4, 1, 1, dtype=torch.bool)
    layer.mask[:4, :2] = layer.mask[4:, 2:] = True
    assert bsr_bytes(layer, 4) == 4 * (4 * 4 + 4)
    layer.mask[4:, 0] = True
    assert bsr_bytes(layer, 4) == 4 * (5 * 4 + 5 + 3)


def test_blocks_must_divide_the_output_channels() -> None:
    with pytest.raises(ValueError, match="6 output channels"):
        bsr_bytes(nn.Conv2d(4, 6, 1), 4)


# ---- bits (IntraQ)

INTRAQ = {
    "ResNet-20": ("resnet_cifar", {"shortcut": "conv"}, CIFAR),
    "ResNet-18": ("resnet18", {}, IMAGENET),
    "MobileNetV1": ("mobilenet_v1", {}, IMAGENET),
    "MobileNetV2": ("mobilenet_v2", {"variant": "zoo"}, IMAGENET),
}


@pytest.mark.parametrize("network, bits, megabytes, ratio, giga_bit_operations", [
    ("ResNet-20", 4, 0.1418, 7.688, 0.6530),
    ("ResNet-20", 3, None, 10.101, 0.3673),
    ("ResNet-18", 4, 5.882, 7.950, 29.025),
    ("ResNet-18", 5, 7.342, 6.369, 45.352),
    ("MobileNetV1", 4, 2.196, 7.708, 9.100),
    ("MobileNetV1", 5, None, 6.218, 14.219),
    ("MobileNetV2", 4, None, 7.489, 5.018),
    ("MobileNetV2", 5, None, 6.080, 7.841),
])  # fmt: skip
def test_size_and_bit_operations_of_quantized_networks(
    network: str, bits: int, megabytes: float | None, ratio: float, giga_bit_operations: float
) -> None:
    architecture, arguments, shape = INTRAQ[network]
    dense = stored_bytes(build_meta(architecture, **arguments))
    counts = account(quantized(build_meta(architecture, **arguments), bits), shape)
    assert dense / counts.stored_bytes == pytest.approx(ratio, abs=6e-4)
    assert counts.bit_operations / 1e9 == pytest.approx(giga_bit_operations, abs=6e-4)
    if megabytes is not None:
        assert counts.stored_bytes / 1e6 == pytest.approx(megabytes, abs=6e-4)


def test_float_sizes() -> None:
    sizes = {name: stored_bytes(build_meta(a, **k)) / 1e6 for name, (a, k, _) in INTRAQ.items()}
    assert sizes["ResNet-20"] == pytest.approx(1.0899, abs=5e-5)
    assert sizes["ResNet-18"] == pytest.approx(46.758, abs=5e-4)
    assert sizes["MobileNetV1"] == pytest.approx(16.928, abs=5e-4)


# ---- bits (DDTB): only the body is quantized

BODY = ("blocks.", "global_")


@pytest.mark.parametrize("architecture, scale, ratios", [
    ("edsr", 4, (3.686, 3.383, 3.126)),
    ("edsr", 2, (5.190, 4.554, 4.057)),
    ("rdn", 4, (12.98, 9.277, 7.217)),
    ("rdn", 2, (14.11, 9.819, 7.529)),
    ("srresnet", 4, (3.509, 3.238, 3.006)),
    ("srresnet", 2, (4.769, 4.237, 3.812)),
])  # fmt: skip
def test_compression_ratio_of_super_resolution(architecture: str, scale: int, ratios: tuple[float, ...]) -> None:
    model = build_meta(architecture, scale=scale)
    dense = stored_bytes(model)
    found = [dense / stored_bytes(quantized(model, bits, BODY)) for bits in (2, 3, 4)]
    assert found == pytest.approx(ratios, rel=4e-4)


@pytest.mark.parametrize("architecture, giga_macs, tera_bit_operations", [
    ("edsr", 114.239, (116.98, 47.674, 48.014, 48.490)),
    ("rdn", 1309.21, (1340.6, 52.445, 58.760, 67.600)),
    ("srresnet", 127.767, (130.83, 61.527, 61.866, 62.342)),
])  # fmt: skip
def test_bit_operations_of_super_resolution(
    architecture: str, giga_macs: float, tera_bit_operations: tuple[float, ...]
) -> None:
    model = build_meta(architecture, scale=4)
    patches = (1280 // 4) * (720 // 4) / 64
    counts = [account(quantized(model, bits, BODY), (3, 8, 8)) for bits in (32, 2, 3, 4)]
    assert counts[0].macs * patches / 1e9 == pytest.approx(giga_macs, rel=1e-5)
    assert [c.bit_operations * patches / 1e12 for c in counts] == pytest.approx(tera_bit_operations, rel=1e-4)


# ---- conventions


@pytest.mark.parametrize("architecture, arguments, shape, convention, millions", [
    ("resnet_cifar", {"shortcut": "conv"}, CIFAR, "zoo", 41.29),
    ("mobilenet_v1", {}, IMAGENET, "zoo", 579.80),
    ("resnet_cifar", {"blocks": [9, 9, 9]}, CIFAR, "with_bn", 126.555456),
    ("resnet_cifar", {"blocks": [18, 18, 18]}, CIFAR, "with_bn", 254.989632),
    ("resnet50", {}, IMAGENET, "with_bn", 4113.562624),
    ("resnet_cifar", {"blocks": [9, 9, 9]}, CIFAR, "macs", 125.485696),
])  # fmt: skip
def test_published_flops(architecture: str, arguments: dict, shape: tuple, convention: str, millions: float) -> None:
    decimals = len(str(millions).split(".")[1])
    assert round(flops(build_meta(architecture, **arguments), shape, convention) / 1e6, max(decimals, 2)) == millions


def test_conventions_differ_as_described() -> None:
    model = build_meta("vgg", depth=16, conv_bias=True)
    linear = 512 * 10
    outputs = sum(row.outputs for row in layer_table(model, CIFAR) if row.kind in ("conv", "linear"))
    macs = 313_201_664
    expected = {"macs": macs, "conv_only": macs - linear, "flops_2x": 2 * macs, "macs_with_bias": macs + outputs}
    assert {name: flops(model, CIFAR, name) for name in expected} == expected
    assert set(expected) < set(CONVENTIONS)


def test_unknown_convention_is_named() -> None:
    with pytest.raises(ValueError, match="gflops"):
        flops(build_meta("plain"), (1, 28, 28), "gflops")


# ---- the protocol


def test_masked_layers_are_counted_by_their_mask() -> None:
    layer = mask_layer(nn.Conv2d(4, 8, 3, padding=1, bias=False))
    layer.mask[:, :2] = False
    layer.weight.data[0, 3] = 0
    row = layer_table(nn.Sequential(layer), (4, 5, 5))[0]
    assert kept_count(layer) == 8 * 2 * 9
    assert (row.macs, row.dense_macs) == (8 * 2 * 9 * 25, 8 * 4 * 9 * 25)


def test_counting_changes_nothing() -> None:
    model = models.build("plain")
    model.body[0].eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    account(model, (1, 28, 28))
    assert model.training and not model.body[0].training
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not any(layer._forward_hooks for layer in model.modules())


def test_a_batch_size_in_the_shape_is_ignored() -> None:
    model = build_meta("plain")
    assert account(model, (8, 1, 28, 28)) == account(model, (1, 28, 28))


def test_products_of_activations_count_beside_the_weights() -> None:
    """DeiT-S: 12 blocks of 12 d² T + 2 T² d, the patches and the head; half of 4.6 GFLOPs as papers print them."""
    vit, tokens, d = build_meta("vit"), 197, 384
    products = 12 * 2 * tokens**2 * d
    rows = [row for row in layer_table(vit, IMAGENET) if row.kind == "product"]
    assert (len(rows), sum(row.macs for row in rows)) == (12, products)
    assert account(vit, IMAGENET).macs == 12 * 12 * d**2 * tokens + products + 196 * 768 * d + 1000 * d
    norms = 25 * tokens * d
    assert flops(vit, IMAGENET, "with_norms") == account(vit, IMAGENET).macs + 5 * norms


def test_the_operations_of_binary_networks_count_64_of_one_bit_as_one() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 16, 3, bias=False))
    model[1].weight_bits = model[1].input_bits = 1
    real, binary = 8 * 27 * 36, 16 * 72 * 16
    assert flops(model, (3, 8, 8), "binary_ops") == real + binary // 64
    assert account(model, (3, 8, 8)).bit_operations == real * 32 * 32 + binary
    assert account(model, (3, 8, 8)).stored_bytes == 8 * 27 * 4 + 16 * 72 // 8


# ---- nothing is passed over


class Reads(nn.Module):
    """Images [1, 4, 6, 6] as `forward` hands them to the layer."""

    def __init__(self, layer: nn.Module, forward: Callable[[nn.Module, Tensor], object]) -> None:
        super().__init__()
        self.layer, self.own = layer, forward

    def forward(self, x: Tensor) -> object:
        return self.own(self.layer, x)


OTHER_LAYERS = {
    "transposed": (nn.ConvTranspose2d(4, 6, 3, 2, 1, 1), lambda layer, x: layer(x), 36 * 4 * 6 * 9),
    "transposed in groups": (nn.ConvTranspose2d(4, 6, 3, groups=2), lambda layer, x: layer(x), 36 * 4 * 3 * 9),
    "called by keyword": (nn.Conv2d(4, 8, 3), lambda layer, x: layer(input=x), 16 * 4 * 8 * 9),
    "1-D": (nn.Conv1d(4, 8, 3, padding=1), lambda layer, x: layer(x.flatten(2)), 36 * 4 * 8 * 3),
    "transposed 1-D": (nn.ConvTranspose1d(4, 8, 3), lambda layer, x: layer(x.flatten(2)), 36 * 4 * 8 * 3),
    "3-D": (nn.Conv3d(1, 8, 3), lambda layer, x: layer(x[None]), 2 * 4 * 4 * 8 * 27),
    "linear on tokens": (nn.Linear(36, 5), lambda layer, x: layer(x.flatten(2)), 4 * 36 * 5),
    "embedding": (nn.Embedding(9, 4), lambda layer, x: layer(x[:, 0].long()), 0),
    "group norm": (nn.GroupNorm(2, 4), lambda layer, x: layer(x), 0),
    "a product": (nn.ReLU(), lambda layer, x: layer(x) @ x.transpose(2, 3), 4 * 6 * 6 * 6),
    "a product with a vector": (nn.ReLU(), lambda layer, x: layer(x)[0, 0] @ x[0, 0, 0], 6 * 6),
    "attention by hand": (
        nn.Linear(4, 4),
        lambda layer, x: F.scaled_dot_product_attention(*3 * [layer(x.flatten(2).mT)[None]]),
        36 * 4 * 4 + 2 * 36 * 36 * 4,
    ),
    "a convolution by hand": (nn.Conv2d(4, 8, 1), lambda layer, x: F.conv2d(x, layer.weight), 36 * 4 * 8),
}  # fmt: skip


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", OTHER_LAYERS)
def test_layers_that_no_network_here_has_are_counted_too(name: str, device: str) -> None:
    layer, forward, macs = OTHER_LAYERS[name]
    assert account(Reads(layer, forward).to(device), (4, 6, 6)).macs == macs


def test_attention_has_four_projections_and_two_products() -> None:
    """Queries of 36 tokens, keys and values of 9, 8 wide; the keys are 3 wide, the values 5."""
    attention = nn.MultiheadAttention(8, 2, kdim=3, vdim=5, batch_first=True)

    def run(layer: nn.Module, x: Tensor) -> object:
        return layer(x.new_zeros(1, 36, 8), value=x.new_zeros(1, 9, 5), key=x.new_zeros(1, 9, 3))

    model = Reads(attention, run)
    projections = {"query": 36 * 8 * 8, "key": 9 * 3 * 8, "value": 9 * 5 * 8, "out_proj": 36 * 8 * 8}
    rows = layer_table(model, (4, 6, 6))
    assert {row.name: row.macs for row in rows if row.kind == "linear"} == {
        f"layer.{n}": m for n, m in projections.items()
    }
    counts = account(model, (4, 6, 6))
    assert counts.macs == sum(projections.values()) + 2 * 36 * 9 * 8
    assert counts.weights == counts.kept_weights == 8 * (8 + 3 + 5 + 8)
    assert counts.stored_bytes == 4 * counts.params


@pytest.mark.parametrize("name, giga_macs", [("vit_b_16", 17.56), ("resnet18", 1.81), ("convnext_tiny", 4.46)])
def test_networks_of_torchvision_cost_what_torchvision_says(name: str, giga_macs: float) -> None:
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None)
    counts = account(model, IMAGENET)
    assert round(counts.macs / 1e9, 2) == giga_macs
    assert counts.params == torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]


@pytest.mark.parametrize("architecture, shape", [
    ("vit", IMAGENET), ("lv_vit", IMAGENET), ("mobilenet_v3_large", IMAGENET), ("googlenet", CIFAR), ("densenet", CIFAR),
    ("edsr", (3, 8, 8)),
])  # fmt: skip
def test_pytorchs_own_counter_finds_the_same(architecture: str, shape: tuple) -> None:
    arguments = {"embedding": "convolutional"} if architecture == "lv_vit" else {}
    model = build_meta(architecture.removeprefix("lv_"), **arguments).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter_of_pytorch:
        model(torch.zeros(1, *shape, device="meta"))
    assert 2 * account(model, shape).dense_macs == counter_of_pytorch.get_total_flops()


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def test_a_layer_that_no_counter_knows_is_an_error_that_names_it() -> None:
    model = nn.Sequential(OrderedDict(first=nn.Conv2d(4, 4, 1), scaled=Scaled()))
    with pytest.raises(UserError, match=r"the layer scaled \(Scaled\), which has parameters.*product_macs.*counter"):
        account(model, (4, 6, 6))
    with pytest.raises(UserError, match=r"the layer layer \(LSTM\)"):
        account(Reads(nn.LSTM(36, 4), lambda layer, x: layer(x[0].flatten(1))), (4, 6, 6))
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules())


def test_a_registered_counter_holds_for_derived_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Derived(Scaled):
        pass

    monkeypatch.setattr(accounting, "COUNTERS", dict(COUNTERS))
    counter(Scaled)(lambda name, layer, inputs, output: [LayerCount(name, "product", 0, 0, products=7)])
    assert account(nn.Sequential(Derived(), Scaled()), (4, 6, 6)).macs == 14
