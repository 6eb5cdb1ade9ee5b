"""The emulated CUDA device: what it refuses, what it allows, and that its numbers are those of the CPU."""

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench import storage
from compressbench.seeding import generator
from tests.emulated_cuda import CUDA, NOT_DETERMINISTIC, Device, emulated_cuda


@pytest.fixture
def device() -> Iterator[Device]:
    with emulated_cuda() as device:
        yield device


@pytest.fixture
def deterministic() -> Iterator[None]:
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    yield
    torch.set_deterministic_debug_mode(before)


def there(*shape: int) -> Tensor:
    return torch.ones(shape, device="cuda")


def here(*shape: int) -> Tensor:
    return torch.ones(shape)


def index(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.long)


TWO_DEVICES: dict[str, Callable[[], object]] = {
    "addition": lambda: there(3) + here(3),
    "a number of the device, added to a tensor of the CPU": lambda: here(3) + there(3).sum(),
    "in place on the CPU": lambda: here(3).add_(there(3)),
    "in place on a number of the CPU": lambda: torch.zeros(()).add_(there(3).sum()),
    "matrix product": lambda: there(3, 3) @ here(3, 3),
    "convolution": lambda: F.conv2d(there(1, 1, 3, 3), here(1, 1, 1, 1)),
    "concatenation": lambda: torch.cat([there(3), here(3)]),
    "a stack of numbers": lambda: torch.stack([there(3).sum(), here(3).sum()]),
    "a choice": lambda: torch.where(there(3) > 0, there(3), here(3)),
    "a mask to fill": lambda: there(3).masked_fill(here(3) > 0, 0),
    "a mask without dimensions to fill": lambda: there(3).masked_fill(torch.tensor(True), 0),
    "a bound as a number": lambda: there(3).clamp(min=torch.tensor(0.0)),
    "indices of the device": lambda: here(3)[index(1).to("cuda")],
    "a mask of the device": lambda: here(3)[there(3) > 0],
    "gathering": lambda: there(3).gather(0, index(3)),
    "selection": lambda: there(3).index_select(0, index(1)),
    "scattering": lambda: there(3).scatter(0, index(3), here(3)),
    "comparison of all": lambda: torch.equal(there(3), here(3)),
    "a module's buffer": lambda: nn.BatchNorm2d(2)(there(1, 2, 3, 3)),
    "the loss's labels": lambda: F.cross_entropy(there(2, 3), index(2)),
}


@pytest.mark.parametrize("case", TWO_DEVICES)
def test_tensors_of_two_devices_are_refused(case: str, device: Device) -> None:
    with pytest.raises(RuntimeError, match=r"same device|indices should be"):
        TWO_DEVICES[case]()


RANDOM: dict[str, Callable[[torch.Generator], object]] = {
    "new numbers": lambda random: torch.rand(3, generator=random, device="cuda"),
    "a permutation": lambda random: torch.randperm(3, generator=random, device=CUDA),
    "in place": lambda random: there(3).normal_(generator=random),
    "an initialisation": lambda random: nn.init.uniform_(nn.Linear(2, 2).cuda().weight, generator=random),
    "draws from a distribution": lambda random: torch.multinomial(there(3), 1, generator=random),
}


@pytest.mark.parametrize("case", RANDOM)
def test_generators_of_the_cpu_are_refused(case: str, device: Device) -> None:
    with pytest.raises(RuntimeError, match="device type for generator"):
        RANDOM[case](generator("test"))


LEAVING: dict[str, Callable[[], object]] = {
    "numpy": lambda: there(3).numpy(),
    "an array": lambda: np.asarray(there(3)),
    "pinning": lambda: there(3).pin_memory(),
}


@pytest.mark.parametrize("case", LEAVING)
def test_memory_of_the_device_is_not_shared_with_the_cpu(case: str, device: Device) -> None:
    with pytest.raises((RuntimeError, TypeError)):
        LEAVING[case]()


def trained(function: Callable[[Tensor], Tensor], *shape: int) -> Callable[[], object]:
    return lambda: function(there(*shape).requires_grad_()).sum().backward()


UNORDERED: dict[str, Callable[[], object]] = {
    "histc": lambda: torch.histc(there(3)),
    "cumsum": lambda: there(3).cumsum(0),
    "median": lambda: there(3, 3).median(1),
    "nanmedian": lambda: there(3, 3).nanmedian(dim=1),
    "bincount": lambda: torch.bincount(index(3).to("cuda"), there(3)),
    "put_": lambda: there(3).put_(index(1).to("cuda"), there(1)),
    "put_ from the gradient of take": trained(lambda x: x.take(index(1).to("cuda")), 3),
    "scatter_reduce": lambda: there(3).scatter_reduce(0, index(3).to("cuda"), there(3), "prod"),
    "nll_loss2d_forward": lambda: F.nll_loss(there(1, 2, 3, 3), index(1, 3, 3).to("cuda")),
    "_adaptive_avg_pool2d_backward": trained(nn.AdaptiveAvgPool2d(2), 1, 1, 4, 4),
    "adaptive_max_pool2d_backward": trained(nn.AdaptiveMaxPool2d(2), 1, 1, 4, 4),
    "avg_pool3d_backward": trained(nn.AvgPool3d(2), 1, 1, 4, 4, 4),
    "reflection_pad2d_backward": trained(nn.ReflectionPad2d(1), 1, 1, 4, 4),
    "max_unpool2d": lambda: nn.MaxUnpool2d(2)(there(1, 1, 2, 2), index(1, 1, 2, 2).to("cuda")),
    "upsample_bicubic2d_backward": trained(lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), 1, 1, 4, 4),
    "grid_sampler_2d_backward": trained(lambda x: F.grid_sample(x, there(1, 4, 4, 2), align_corners=False), 1, 1, 4, 4),
}


@pytest.mark.parametrize("case", UNORDERED)
def test_what_has_no_deterministic_kernel_is_refused(case: str, device: Device, deterministic: None) -> None:
    assert case.split()[0] in NOT_DETERMINISTIC
    with pytest.raises(RuntimeError, match="deterministic"):
        UNORDERED[case]()


@pytest.mark.parametrize("case", UNORDERED)
def test_it_is_allowed_where_nobody_asks_for_determinism(case: str, device: Device) -> None:
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        UNORDERED[case]()
    finally:
        torch.set_deterministic_debug_mode(before)


# What the list was made from; where another version of PyTorch says otherwise, the list changes with it.
DOCUMENTED = {
    "nn.AvgPool3d", "nn.AdaptiveAvgPool2d", "nn.AdaptiveAvgPool3d", "nn.AdaptiveMaxPool2d", "nn.FractionalMaxPool2d",
    "nn.FractionalMaxPool3d", "nn.MaxUnpool1d", "nn.MaxUnpool2d", "nn.MaxUnpool3d", "nn.functional.interpolate",
    "nn.ReflectionPad1d", "nn.ReflectionPad2d", "nn.ReflectionPad3d", "nn.NLLLoss", "nn.CTCLoss", "nn.EmbeddingBag",
    "Tensor.put_", "histc", "bincount", "median", "nn.functional.grid_sample", "cumsum", "Tensor.scatter_reduce",
    "Tensor.resize_",
}  # fmt: skip


def test_the_list_is_that_of_the_documentation_and_every_operator_exists() -> None:
    documented = (torch.use_deterministic_algorithms.__doc__ or "").split("operations will throw a")[-1]
    assert set(re.findall(r"\* :\w+:`torch\.([\w.]+)`", documented.split("In addition")[0])) == DOCUMENTED
    assert all(hasattr(torch.ops.aten, name) for name in NOT_DETERMINISTIC)


def test_products_of_integers_are_refused(device: Device) -> None:
    with pytest.raises(RuntimeError, match="not implemented for"):
        there(3, 3).long() @ there(3, 3).long()


ALLOWED: dict[str, Callable[[], Tensor]] = {
    "a number of the CPU, added": lambda: there(3) + torch.tensor(2.0),
    "a sum that starts on the CPU": lambda: torch.zeros(()) + there(3).sum(),
    "a number of the CPU, chosen": lambda: torch.where(there(3) > 0, there(3), torch.tensor(0.0)),
    "a number of the CPU to fill all with": lambda: there(3).fill_(torch.tensor(0.0)),
    "a number of the CPU to fill with": lambda: there(3).masked_fill(there(3) > 0, torch.tensor(0.0)),
    "indices of the CPU": lambda: there(3)[index(1)],
    "a mask of the CPU": lambda: there(3)[here(3) > 0],
    "assignment at indices of the CPU": lambda: _assigned(there(3)),
    "a copy from the CPU": lambda: there(3).copy_(here(3)),
    "a tensor made of numbers": lambda: torch.tensor([1.0, 2.0], device="cuda"),
    "a tensor like another": lambda: there(3).new_tensor([1.0]),
    "as a tensor": lambda: torch.as_tensor(there(3)),
    "as a tensor of another type": lambda: torch.as_tensor(np.ones(3), dtype=torch.float32, device="cuda"),
    "zeros like another": lambda: torch.zeros_like(there(3)),
    "moved by name": lambda: here(3).cuda(),
    "moved like another": lambda: here(3).to(there(1)),
    "a sum of integers": lambda: there(3).long().cumsum(0),
    "one median of all": lambda: there(3).median(),
    "an order statistic": lambda: there(3).kthvalue(2).values,
    "pooling to one pixel": lambda: nn.AdaptiveAvgPool2d(1)(there(1, 1, 4, 4)),
    "a copy in depth": lambda: copy.deepcopy(there(3)),
    "another shape in place": lambda: there(1, 3).squeeze_(0) * 2,
    "numbers of the device by torch's own generator": lambda: torch.rand(3, device="cuda"),
}


def _assigned(x: Tensor) -> Tensor:
    x[index(1)] = 0
    return x


@pytest.mark.parametrize("case", ALLOWED)
def test_what_cuda_allows_is_allowed_and_stays_there(case: str, device: Device, deterministic: None) -> None:
    result = ALLOWED[case]()
    assert result.device == CUDA and result.is_cuda and not result.is_cpu
    assert result.cpu().device.type == "cpu"


def test_numbers_leave_one_by_one(device: Device) -> None:
    x = there(2)
    assert (x.sum().item(), float(x[0]), bool(x.any()), x.tolist(), f"{x.sum():.1f}") == (2, 1, True, [1, 1], "2.0")
    assert x.cpu().numpy().tolist() == [1, 1]
    assert torch.tensor([x[0], x[1]]).device.type == "cpu"


def test_same_device_means_same_tensor(device: Device) -> None:
    x = there(3)
    assert x.to("cuda") is x and x.to(x.device) is x and x.cpu() is not x


def test_views_share_their_memory(device: Device) -> None:
    x = there(2, 3)
    x[0].zero_()
    assert x.sum().item() == 3


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )


def trained_network(where: str) -> dict[str, Tensor]:
    model = network().to(where)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images, labels = torch.linspace(0, 1, 200).reshape(2, 1, 10, 10).to(where), torch.arange(2, device=where)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return {name: tensor.cpu() for name, tensor in model.state_dict().items()}


def test_training_gives_the_bits_of_the_cpu(device: Device, deterministic: None) -> None:
    emulated = trained_network("cuda")
    assert device.operators and not device.draws
    assert all(torch.equal(value, emulated[name]) for name, value in trained_network("cpu").items())


def test_parameters_stay_parameters(device: Device) -> None:
    model = copy.deepcopy(network().to("cuda"))
    assert len(list(model.parameters())) == 6
    assert all(isinstance(p, nn.Parameter) and p.requires_grad and p.device == CUDA for p in model.parameters())


def test_tensors_are_stored_and_loaded_without_the_device(device: Device, tmp_path: Path) -> None:
    storage.save_tensors(tmp_path / "x.safetensors", {"x": there(3)})
    loaded = storage.load_tensors(tmp_path / "x.safetensors")["x"]
    assert loaded.device.type == "cpu" and torch.equal(loaded, here(3))


def test_the_device_says_what_it_drew(device: Device) -> None:
    there(3) + 1
    torch.rand(3)
    assert device.operators and not device.draws
    F.dropout(there(3))
    assert device.draws


def test_it_is_gone_afterwards() -> None:
    available = torch.cuda.is_available()
    with emulated_cuda():
        assert torch.cuda.is_available() and torch.cuda.device_count() == 1
    assert torch.cuda.is_available() == available
    assert here(3).to("cpu").device.type == "cpu"
