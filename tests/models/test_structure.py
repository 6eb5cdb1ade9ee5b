"""What methods rely on: names, couplings, free widths, modules used once, quantization points."""

import json
from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn

from compressbench import models
from compressbench.errors import UserError
from compressbench.models import Coupling

# architecture, arguments, input shape; small enough to run
RUNNABLE = {
    "plain": ({}, (1, 28, 28)),
    "resnet_cifar": ({"blocks": [1, 1, 1]}, (3, 16, 16)),
    "resnet18": ({"classes": 7}, (3, 32, 32)),
    "resnet50": ({"classes": 7}, (3, 32, 32)),
    "resnet_cifar with convolutional shortcuts": ({"blocks": [2, 1, 1], "shortcut": "conv"}, (3, 16, 16)),
    "vgg": ({}, (3, 32, 32)),
    "vgg of three stages": ({"stages": [(2, 8), (1, 12), (2, 12)], "in_channels": 1}, (1, 28, 28)),
    "googlenet": ({}, (3, 8, 8)),
    "mobilenet_mini": ({}, (1, 28, 28)),
    "mobilenet_v1": ({"width": 0.25}, (3, 32, 32)),
    "mobilenet_v2": ({"variant": "zoo"}, (3, 32, 32)),
    "mobilenet_v2 for small images": ({"variant": "cifar", "classes": 10}, (3, 8, 8)),
    "mobilenet_v3_small": ({}, (3, 32, 32)),
}
SUPER_RESOLUTION = {
    "edsr": {"blocks": 2, "channels": 8},
    "srresnet": {"blocks": 2, "channels": 8},
    "rdn": {"blocks": 2, "convs": 2, "channels": 8, "growth": 8},
}


@pytest.fixture(params=RUNNABLE, scope="module")
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    """A network in evaluation mode whose batch normalisation is not the identity, and images."""
    arguments, shape = RUNNABLE[request.param]
    torch.manual_seed(0)
    model = models.build(request.param.split()[0], **arguments).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var):
                tensor.uniform_(0.5, 1.5)
    return model, torch.randn(2, *shape)


def permute(model: nn.Module, coupling: Coupling, order: Tensor) -> None:
    """Reorder the channels of a coupling everywhere that they are indexed."""

    def rows(name: str | None) -> None:
        if name is not None:
            layer = model.get_submodule(name)
            tensors = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
            for tensor in (t for t in tensors if t.dim() > 0):
                tensor.data = tensor.data[order]

    def columns(name: str) -> None:
        weight = model.get_submodule(name).weight
        read = slice(coupling.offset, coupling.offset + len(order))
        weight.data[:, read] = weight.data[:, read][:, order]

    for name in (name for pair in coupling.outputs for name in pair):
        rows(name)
    for name in coupling.consumers:
        columns(name)
    if coupling.gates:
        columns(coupling.gates[0])
        rows(coupling.gates[1])


def test_permuting_a_coupling_leaves_the_function_unchanged(case: tuple[nn.Module, Tensor]) -> None:
    model, images = case
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        before = model(images)
        for coupling in (c for c in model.couplings() if not c.padded):
            channels = model.get_submodule(coupling.producer).out_channels
            permute(model, coupling, torch.randperm(channels, generator=torch.Generator().manual_seed(channels)))
        after = model(images)
    changed = any(not torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    model.load_state_dict(state)
    assert changed
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4 * before.abs().max().item())


def test_every_module_is_used_exactly_once(case: tuple[nn.Module, Tensor]) -> None:
    model, images = case
    calls = {name: 0 for name, layer in model.named_modules() if not list(layer.children()) and name}

    def counter(name: str) -> None:
        calls[name] += 1

    hooks = [
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: counter(name))  # type: ignore[misc]
        for name in calls
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    assert set(calls.values()) == {1}


def test_every_inner_width_can_be_narrowed(case: tuple[nn.Module, Tensor]) -> None:
    model, images = case
    spec = model.spec
    couplings = model.couplings()
    widths = {c.key: 3 + i % 2 for i, c in enumerate(couplings)} | {"stages.0": 3, "stages.1": 4, "stages.2": 5}
    widths = {c.key: widths[c.key] for c in couplings}
    with torch.device("meta"):
        narrow = models.build(spec.architecture, **spec.arguments, inner_widths=widths).eval()
    for coupling in couplings:
        channels = {narrow.get_submodule(conv).out_channels for conv, _ in coupling.outputs}
        assert channels == {widths[coupling.key]}, coupling.key
    assert narrow(images.to("meta")).shape == (2, narrow.spec.arguments.get("classes", model(images).shape[1]))


def test_logits_come_from_the_features(case: tuple[nn.Module, Tensor]) -> None:
    model, images = case
    with torch.no_grad():
        features = model.features(images)
        logits = model(images)
    assert features.dim() == 2
    if model.classifier_kind == "linear":
        torch.testing.assert_close(model.classifier(features), logits)


TAPPED = {
    "resnet_cifar": ({"blocks": [1, 1, 1]}, [16, 32, 64], [32, 16, 8]),
    "resnet18": ({}, [64, 128, 256, 512], [8, 4, 2, 1]),
    "wide_resnet": ({}, [32, 64, 128], [32, 16, 8]),
    "densenet": ({}, [168, 312, 456], [32, 16, 8]),
    "googlenet": ({}, [480, 832, 1024], [32, 16, 8]),
}


@pytest.mark.parametrize("architecture", TAPPED)
def test_feature_maps_halve_and_the_deepest_one_is_what_the_classifier_reads(architecture: str) -> None:
    arguments, channels, sizes = TAPPED[architecture]
    model, maps = models.build(architecture, **arguments).eval(), []
    for name in model.taps():
        model.get_submodule(name).register_forward_hook(lambda _, x, y: maps.append(y))
    with torch.no_grad():
        logits = model(torch.randn(1, 3, 32, 32))
        assert [f.shape[1] for f in maps] == channels and [f.shape[2] for f in maps] == sizes
        assert (maps[-1] >= 0).all(), "after the last activation"
        torch.testing.assert_close(model.classifier(maps[-1].mean((2, 3))), logits)


def test_couplings_are_the_published_ones() -> None:
    with torch.device("meta"):
        names = ("googlenet", "mobilenet_v1", "mobilenet_v2", "resnet50", "vgg")
        count = {name: len(models.build(name).inner_couplings()) for name in names}
        resnet_56, resnet_50 = models.build("resnet_cifar", blocks=[9, 9, 9]), models.build("resnet50")
    assert count == {"googlenet": 64, "mobilenet_v1": 13, "mobilenet_v2": 17, "resnet50": 33, "vgg": 16}
    assert len(resnet_56.inner_couplings()) == 27
    assert [c.key for c in resnet_56.couplings() if c.padded] == ["stages.0", "stages.1", "stages.2"]
    sums = {c.key: (len(c.outputs), len(c.consumers)) for c in resnet_50.couplings() if c.group}
    assert sums == {"stages.0": (4, 4), "stages.1": (5, 5), "stages.2": (7, 7), "stages.3": (4, 3)}


def test_activation_of_a_coupling_leaves_its_channels(case: tuple[nn.Module, Tensor]) -> None:
    model, images = case
    widths: dict[str, int] = {}
    for coupling in model.couplings():
        layer = model.get_submodule(coupling.activation)
        layer.register_forward_hook(lambda _, x, y, key=coupling.key: widths.update({key: y.shape[1]}))  # type: ignore[misc]
    with torch.no_grad():
        model(images)
    assert widths == {c.key: model.get_submodule(c.producer).out_channels for c in model.couplings()}


@pytest.mark.parametrize("architecture", SUPER_RESOLUTION)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_super_resolution_enlarges_by_its_scale(architecture: str, scale: int) -> None:
    model = models.build(architecture, scale=scale, **SUPER_RESOLUTION[architecture]).eval()
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


def test_pad_shortcut_subsamples_and_pads_channels_on_both_sides() -> None:
    shortcut = models.build("resnet_cifar", widths=[4, 8, 16]).stages[1][0].shortcut
    x = torch.arange(64.0).reshape(1, 4, 4, 4)
    y = shortcut(x)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert y.shape == (1, 8, 2, 2) and not y[:, :2].any() and not y[:, 6:].any()


def test_residual_networks_start_from_kaiming_normal() -> None:
    torch.manual_seed(0)
    weight = models.build("resnet50").stages[3][0].conv2.weight
    assert weight.std().item() == pytest.approx((2 / weight[0].numel()) ** 0.5, rel=0.01)


def test_the_same_seed_builds_the_same_network() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(models.build("resnet_cifar").state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_spec_survives_json() -> None:
    spec = models.build("plain", widths=[4, 4, 4, 4, 4]).spec
    assert models.ModelSpec(**json.loads(json.dumps(asdict(spec)))) == spec


@pytest.mark.parametrize("architecture", models.ARCHITECTURES)
def test_every_architecture_builds_without_memory(architecture: str) -> None:
    with torch.device("meta"):
        model = models.build(architecture)
    assert all(tensor.is_meta for tensor in model.state_dict().values())


@pytest.mark.parametrize("architecture, arguments, message", [
    ("alexnet", {}, "unknown architecture"),
    ("plain", {"depth": 3}, "no argument depth"),
    ("plain", {"widths": [8]}, "1 widths but 5 strides"),
    ("plain", {"inner_widths": {"conv1": 8}}, "conv1"),
    ("edsr", {"scale": 5}, "scale must be 2, 3 or 4"),
    ("resnet_cifar", {"shortcut": "none"}, "'pad' or 'conv'"),
    ("resnet_cifar", {"classifier": "mlp"}, "'conv' or 'linear'"),
    ("vgg", {"depth": 11}, "depth"),
    ("wide_resnet", {"depth": 18}, "6n"),
    ("densenet", {"depth": 41}, "3n"),
    ("mobilenet_v2", {"variant": "x"}, "variant"),
])  # fmt: skip
def test_bad_arguments_are_named(architecture: str, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        models.build(architecture, **arguments)
