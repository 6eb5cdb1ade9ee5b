"""What is stored of a compressed layer: its kind, its settings, its tensors; and what replaces a module shares with it."""

import copy
import json

import pytest
import torch
from torch import Tensor, nn

from compressbench.layers import all_layers  # noqa: F401  (registers every kind)
from compressbench.layers.folding import FoldedNorm
from compressbench.layers.masked import mask_layer
from compressbench.layers.observed import ObservedActivation
from compressbench.layers.quantized import QuantizedActivation, mask_quantized_layer, quantize_layer
from compressbench.layers.registry import (
    LAYER_KINDS,
    ActivationQuantizer,
    CompressedLayer,
    ReplacedLayer,
    replace_module,
    replace_modules,
)
from tests.emulated_cuda import CUDA, emulated_cuda
from tests.layers.kinds import ACTIVATIONS, OTHER, RANGED


def stored(layers: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Those that a stored model may have: latent forms of single methods become others before."""
    return {name: layer for name, layer in layers.items() if type(layer) in LAYER_KINDS.values()}


def replaced() -> dict[str, nn.Module]:
    """A layer of every kind that stands for a convolution or a linear layer."""
    torch.manual_seed(0)
    convolutions = stored({name: build(nn.Conv2d(4, 6, 3, padding=1)) for name, build in (RANGED | OTHER).items()})
    masked = mask_layer(nn.Conv2d(4, 6, 3), block=2)
    masked.mask[2:4] = False
    linear = {"masked linear": mask_layer(nn.Linear(4, 3)), "quantized linear": quantize_layer(nn.Linear(4, 3), 4, 8)}
    kept = torch.rand(3, 4) > 0.5
    linear["masked quantized linear"] = mask_quantized_layer(quantize_layer(nn.Linear(4, 3), 4, 8), kept)
    return {"masked": masked} | convolutions | linear


REPLACED = replaced()


def example(layer: nn.Module) -> Tensor:
    random = torch.Generator().manual_seed(1)
    return (
        torch.randn(2, 4, generator=random)
        if isinstance(layer, nn.Linear)
        else torch.randn(2, 4, 5, 5, generator=random)
    )


def started(name: str) -> tuple[ActivationQuantizer, Tensor]:
    """A quantizer that has seen its first input, in eval mode, and that input."""
    torch.manual_seed(0)
    layer, x = ACTIVATIONS[name](), torch.randn(2, 25, 5, 5)
    if isinstance(layer, ObservedActivation):
        layer.observing = True
    if isinstance(layer, QuantizedActivation):
        layer.tracking = True
    with torch.no_grad():
        layer(x)
    if isinstance(layer, ObservedActivation):
        layer.calibrated()
    layer.tracking = False
    return layer.eval(), x


def rebuilt(layer: CompressedLayer, original: nn.Module) -> nn.Module:
    """As storage does it: kind and settings by way of JSON, then the tensors."""
    again = LAYER_KINDS[layer.kind].rebuild(original, json.loads(json.dumps(layer.config())))
    again.load_state_dict(layer.state_dict())
    return again


@pytest.mark.parametrize("name", REPLACED)
def test_a_replaced_layer_comes_back_from_its_settings_and_tensors(name: str) -> None:
    layer = REPLACED[name].eval()
    with torch.no_grad():
        expected = layer(example(layer))
        original = nn.Linear(4, 3) if isinstance(layer, nn.Linear) else nn.Conv2d(4, 6, 3, padding=layer.padding)
        again = rebuilt(layer, original.eval())
        assert type(again) is type(layer) and torch.equal(again(example(layer)), expected)


@pytest.mark.parametrize("name", REPLACED)
def test_a_replaced_layer_shares_the_parameters_of_the_float_one_and_leaves_it_alone(name: str) -> None:
    layer = REPLACED[name]
    original = nn.Linear(4, 3) if isinstance(layer, nn.Linear) else nn.Conv2d(4, 6, 3)
    before, kind = dict(original._parameters), type(original)
    again = type(layer).rebuild(original, layer.config())
    assert again.weight is original.weight and again.bias is original.bias
    assert type(original) is kind and original._parameters == before and not original._buffers
    assert isinstance(again, kind) and isinstance(again, ReplacedLayer)


@pytest.mark.parametrize("name", stored({name: build() for name, build in ACTIVATIONS.items()}))
def test_an_activation_quantizer_comes_back_from_its_settings_and_tensors(name: str) -> None:
    layer, x = started(name)
    with torch.no_grad():
        expected = layer(x)
        again = rebuilt(layer, nn.ReLU().eval())
        assert not again.training and torch.equal(again(x), expected)
        assert torch.equal(copy.deepcopy(layer)(3 * x), again(3 * x)), "what was started does not start again"


def test_every_registered_kind_is_asked() -> None:
    asked = {type(layer) for layer in REPLACED.values()} | {type(build()) for build in ACTIVATIONS.values()}
    assert set(LAYER_KINDS.values()) - asked == {FoldedNorm}, "which has neither settings nor tensors"
    assert all(cls.kind == kind for kind, cls in LAYER_KINDS.items())


def test_a_quantizer_takes_the_mode_of_what_it_replaces() -> None:
    for mode in (True, False):
        assert QuantizedActivation.rebuild(nn.ReLU().train(mode), {"bits": 4}).training is mode


def test_modules_are_replaced_in_order_by_full_name_and_the_model_itself_never() -> None:
    model, asked = nn.Sequential(nn.Sequential(nn.ReLU(), nn.Tanh()), nn.ReLU()), []

    def replace(name: str, module: nn.Module) -> nn.Module | None:
        asked.append(name)
        return nn.Sigmoid() if isinstance(module, nn.ReLU) else None

    assert replace_modules(model, replace) is model and asked == ["0", "0.0", "0.1", "1"]
    assert [type(m) for m in (model[0][0], model[0][1], model[1])] == [nn.Sigmoid, nn.Tanh, nn.Sigmoid]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_what_replaces_a_module_is_on_its_device(name: str) -> None:
    with emulated_cuda():
        model = nn.Sequential(nn.Conv2d(25, 25, 1), nn.ReLU()).to("cuda")
        replace_module(model, "1", ACTIVATIONS[name]())
        assert {tensor.device for tensor in model.state_dict().values()} == {CUDA}
        model(torch.randn(2, 25, 5, 5, device="cuda"))
