"""Tests of PyTorch in eager mode: layout, folded batch norms, and the model left as it was."""

import torch
from torch import nn

from compressbench.runtimes.torch_eager import TorchEager


def test_images_are_in_channels_last_and_vectors_as_they_are() -> None:
    images = TorchEager()
    seen: list[bool] = []
    images.compile = lambda model, example: (
        lambda x: (
            seen.append(  # type: ignore[method-assign]
                x.is_contiguous(memory_format=torch.channels_last)
            )
            or model(x)
        )
    )
    images.prepare(nn.Conv2d(3, 4, 3).eval(), torch.randn(2, 3, 8, 8))()
    assert seen and all(seen)
    with torch.no_grad():
        assert TorchEager().prepare(nn.Linear(3, 2).eval(), torch.randn(1, 3))().shape == (1, 2)


def test_batch_norms_are_folded_in_a_copy() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    model[1].running_mean.normal_()
    networks: list[nn.Module] = []
    runtime = TorchEager()
    runtime.compile = lambda model, example: networks.append(model) or model  # type: ignore[method-assign]
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(runtime.prepare(model, x)(), model(x), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in networks[0].modules())
    assert isinstance(model[1], nn.BatchNorm2d)


def test_without_onednn_the_instruction_set_is_that_of_torch() -> None:
    runtime = TorchEager()
    assert runtime.describe() == {
        "library": f"torch {torch.__version__} native", "isa": torch.backends.cpu.get_cpu_capability(),
    }  # fmt: skip
    runtime.implementations = {"brgconv:avx2", "jit:avx512_core"}
    assert runtime.describe()["isa"] == "AVX2+AVX512_CORE"
    assert runtime.describe()["library"].endswith(" brgconv+jit")
