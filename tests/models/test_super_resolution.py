"""Super-resolution networks: quantization points, mean colour, enlargement, counts of the papers."""

import pytest
import torch
from torch import nn

from compressbench import models
from compressbench.accounting import layer_table, macs_per_pixel, weight_layers
from compressbench.errors import UserError
from tests.models.counts import build_meta


@pytest.mark.parametrize("network", ["edsr", "rdn", "srresnet"])
def test_unknown_scale_of_enlargement_is_refused(network: str) -> None:
    with pytest.raises(UserError, match="scale must be 2, 3 or 4"):
        models.build(network, scale=5)


SMALL = {
    "edsr": {"blocks": 2, "channels": 8},
    "srresnet": {"blocks": 2, "channels": 8},
    "rdn": {"blocks": 2, "convs": 2, "channels": 8, "growth": 8},
}


@pytest.mark.parametrize("architecture", SMALL)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_super_resolution_enlarges_by_its_scale(architecture: str, scale: int) -> None:
    model = models.build(architecture, scale=scale, **SMALL[architecture]).eval()
    low = torch.rand(1, 3, 6, 5) * 255
    with torch.no_grad():
        features = model.features(low)
        assert features.shape == (1, 8, 6, 5)
        assert model(low).shape == (1, 3, 6 * scale, 5 * scale)
        torch.testing.assert_close(model.reconstruct(features), model(low))


def test_edsr_block_reads_its_input_before_the_quantization_point() -> None:
    block = models.build("edsr", blocks=1, channels=4).blocks[0]
    seen = {}
    for name in ("q1", "conv1", "q2", "conv2", "q3"):
        getattr(block, name).register_forward_hook(lambda _, x, y, name=name: seen.update({name: (x[0], y)}))
    x = torch.randn(1, 4, 5, 5)
    y = block(x)
    assert seen["conv1"][0] is x and seen["q1"][0] is x
    assert torch.equal(seen["q2"][0], seen["conv1"][1].relu())
    assert torch.equal(y, seen["q3"][1] + x)


def test_mean_shift_is_frozen_and_cancels() -> None:
    model = models.build("edsr", blocks=1, channels=4)
    image = torch.rand(1, 3, 4, 4) * 255
    torch.testing.assert_close(model.add_mean(model.subtract_mean(image)), image)
    assert not any(p.requires_grad for p in model.subtract_mean.parameters())


def test_srresnet_block_reads_both_points_before_its_convolutions() -> None:
    torch.manual_seed(0)
    block, x = models.build("srresnet", blocks=1, channels=4).eval().blocks[0], torch.randn(1, 4, 5, 5)
    block.q1, block.q2 = nn.Hardtanh(0, 1), nn.ReLU6()  # something that shows
    inner = block.act(block.bn1(block.conv1(x.clamp(0, 1))))
    torch.testing.assert_close(block(x), x + block.bn2(block.conv2(inner.clamp(0, 6))))


def test_a_dense_convolution_passes_on_what_it_reads() -> None:
    torch.manual_seed(0)
    block = models.build("rdn", blocks=1, convs=2, channels=4, growth=3).blocks[0]
    x = torch.randn(1, 4, 5, 5)
    first, second = block.convs
    y = torch.cat([x, first.conv(x).relu()], 1)
    y = torch.cat([y, second.conv(y).relu()], 1)
    assert first.q is None and second.q is not None, "the block's own point quantizes the first input"
    torch.testing.assert_close(block(x), block.fuse(y) + x)


BODY = ("blocks.", "global_")
# architecture, scale, params, quantized weights, quantized and full-precision MACs per low-resolution pixel, points
PUBLISHED = [
    ("edsr", 4, 1_517_595, 1_179_648, 1_179_648, 803_673, 48),
    ("edsr", 2, 1_369_883, 1_179_648, 1_179_648, 193_005, 48),
    ("rdn", 4, 22_271_107, 21_925_888, 21_925_888, 803_520, 145),
    ("rdn", 2, 22_123_395, 21_925_888, 21_925_888, 192_960, 145),
    ("srresnet", 4, 1_546_771, 1_179_648, 1_179_648, 1_038_528, 32),
    ("srresnet", 2, 1_399_314, 1_179_648, 1_179_648, 262_080, 32),
]


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row[0]} x{row[1]}")
def test_super_resolution_network_has_the_published_counts(row: tuple) -> None:
    architecture, scale, params, weights, quantized, full, points = row
    model = build_meta(architecture, scale=scale)
    pixels = 8 * 8
    body = [r for r in layer_table(model, (3, 8, 8)) if r.kind == "conv" and r.name.startswith(BODY)]
    assert sum(p.numel() for p in model.parameters()) == params
    assert sum(layer.weight.numel() for name, layer in weight_layers(model) if name.startswith(BODY)) == weights
    assert sum(r.macs for r in body) == quantized * pixels
    assert macs_per_pixel(model) == quantized + full
    assert sum(type(layer) is nn.Identity for layer in model.modules()) == points


def test_desk_edsr_has_the_published_counts() -> None:
    model = build_meta("edsr", blocks=4, channels=16, scale=2, mean_shift=False)
    body = [layer.weight.numel() for name, layer in weight_layers(model) if name.startswith(BODY)]
    assert sum(p.numel() for p in model.parameters()) == 31_043
    assert (sum(body), macs_per_pixel(model)) == (18_432, 32_112)
