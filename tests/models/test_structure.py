"""What methods rely on: names, couplings, free widths, modules used once, quantization points."""

import pytest
import torch
from torch import Tensor, nn

from compressbench import models
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
