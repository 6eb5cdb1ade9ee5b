"""Networks of quantized layers with 1xN blocks compute in integers what their simulation computes."""

import copy

import pytest
import torch
from torch import Tensor, nn

from compressbench import models
from compressbench.kernels import native
from compressbench.kernels.block_sparse import BLOCK_SIZES
from compressbench.layers.deployment import deploy
from compressbench.pruning.blocks import prunable_layers, random_block_mask, weights_of
from compressbench.quantization import post_training
from compressbench.quantization.post_training import PostTrainingConfig, quantize_post_training
from compressbench.runtimes.base import GROSS, Skip
from compressbench.runtimes.discovery import make_runtime
from compressbench.runtimes.native.graph import trace
from compressbench.runtimes.native.integers import block_size, has_integer_blocks, insert_codes, take_integers

pytestmark = pytest.mark.skipif(not native.is_built(), reason="there was no C++ compiler to build the kernels")
IMAGES = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Stem(nn.Module):
    """Max pooling between quantized layers, a sum of what it leaves, a sum of two convolutions, and a ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 7, 2, 3)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.inner, self.outer, self.side = (nn.Conv2d(16, 16, 3, 1, 1) for _ in range(3))
        self.depthwise = nn.Conv2d(16, 16, 3, 2, 1, groups=16)
        self.last, self.classifier = nn.Conv2d(16, 32, 1), nn.Linear(32, 10)
        self.relu6, self.dropout = nn.ReLU6(), nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.first(x)))
        x = torch.relu(self.inner(x) + x)
        x = torch.relu(self.outer(x) + self.side(x))
        x = self.relu6(self.last(self.relu6(self.depthwise(x))))
        return self.classifier(self.dropout(x.mean((2, 3))))


def rounded(model: nn.Module, n: int | None = 4, bits: int = 8, scheme: str = "asymmetric") -> nn.Module:
    """With random 1xN blocks at 75 %, then quantized after training; without blocks where n is None."""
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        if n is not None:
            for name, weight in weights_of(model, prunable_layers(model)).items():
                mask = random_block_mask(weight, n, 0.75, torch.Generator().manual_seed(0))
                model.get_parameter(f"{name}.weight").mul_(mask)
        config = PostTrainingConfig(
            weight_bits=bits, activation_bits=bits, first_last_bits=None, activation_scheme=scheme
        )
        quantize_post_training(model, post_training.observe(model, [IMAGES], config, "minmax"), config, "minmax")
    return model.requires_grad_(False)


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(1)
    return {
        "stem": Stem(),
        "residual": models.build("resnet_cifar", blocks=[1, 1], widths=[16, 32], shortcut="conv", classes=10),
        "inverted residual": models.build("mobilenet_v2", classes=10),
    }


def simulated(network: nn.Module) -> nn.Module:
    """The simulation whose residual sums add what the next layer reads."""
    plain = deploy(network)
    layers = take_integers(plain)
    module = trace(plain)
    insert_codes(module, layers)
    return module


@pytest.mark.parametrize("scheme", ["asymmetric", "symmetric"])
@pytest.mark.parametrize("name", ["stem", "residual", "inverted residual"])
def test_it_computes_what_the_simulation_computes(name: str, scheme: str) -> None:
    network, runtime = rounded(networks()[name], scheme=scheme), make_runtime("compressbench")
    assert runtime.objection(network) == ""
    alike, own = [], []
    for image in IMAGES[:5]:
        result = torch.as_tensor(runtime.prepare(network, image[None])())
        for errors, model in ((alike, simulated(network)), (own, network)):
            expected = model(image[None])
            errors.append(float((result - expected).norm() / expected.norm()))
    # A tie that float arithmetic breaks otherwise moves a value by a whole step now and then.
    assert sorted(alike)[2] < 1e-4
    assert max(alike) < 0.05
    # MobileNet-V2 adds rounded values ten times.
    assert max(own) < GROSS / 2
    assert runtime.describe()["arithmetic"] == "int8"
    assert "dense" not in runtime.describe()["layers"]


def test_every_layer_of_a_network_is_in_integers() -> None:
    runtime = make_runtime("compressbench")
    runtime.prepare(rounded(Stem()), IMAGES[:1])
    assert sum(runtime.forms.values()) == sum(isinstance(m, nn.Conv2d | nn.Linear) for m in Stem().modules())
    assert runtime.forms["int8 1x4"] == 4


def test_the_next_run_and_other_threads_give_the_same_bits() -> None:
    call = make_runtime("compressbench").prepare(rounded(Stem()), IMAGES[:1])
    first, before = call().clone(), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.equal(call(), first)
    finally:
        torch.set_num_threads(before)


def test_only_block_sparse_rounded_networks_are_taken() -> None:
    assert has_integer_blocks(rounded(Stem()))
    assert not has_integer_blocks(rounded(Stem(), n=None))
    assert not has_integer_blocks(rounded(Stem(), n=1, bits=4))
    assert not has_integer_blocks(Stem())
    assert "no kernel here computes" in make_runtime("compressbench").objection(rounded(Stem(), n=None))


@pytest.mark.parametrize("n", BLOCK_SIZES)
def test_blocks_are_found_although_rounding_makes_some_weights_zero(n: int) -> None:
    rng = torch.Generator().manual_seed(n)
    weight = torch.randint(1, 128, (64, 32, 3, 3), generator=rng)
    weight *= random_block_mask(weight, n, 0.75, rng)
    assert block_size(weight) == n
    assert block_size(weight * (torch.rand(weight.shape, generator=rng) > 0.05)) == n
    assert block_size(weight[:60]) == min(n, 4)
    assert block_size(torch.zeros(64, 8, 1, 1)) == 32


class ReadTwice(nn.Module):
    """Something else than a residual sum reads what a quantized layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return (self.second(x) * x).mean((2, 3))


def test_a_value_that_is_read_as_a_number_stays_one() -> None:
    network, x = rounded(ReadTwice()), IMAGES[:1]
    result, expected = make_runtime("compressbench").prepare(network, x)(), network(x)
    assert (result - expected).norm() < 0.01 * expected.norm()


class LateSum(nn.Module):
    """A sum that follows no convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return (torch.sigmoid(self.second(x)) + x).mean((2, 3))


def test_a_sum_without_a_convolution_is_no_reader_of_codes() -> None:
    with pytest.raises(Skip, match="as codes only"):
        make_runtime("compressbench").prepare(rounded(LateSum()), IMAGES[:1])
