import pytest
import torch
from torch import Tensor, nn

from compressbench import machine, models
from compressbench.runtimes.base import Skip
from compressbench.runtimes.discovery import make_runtime
from tests.runtimes.test_integer import assert_on_the_models_grids, intraq_network


def relative_error(name: str, model: nn.Module, x: Tensor) -> float:
    runtime = make_runtime(name)
    with torch.no_grad():
        output, expected = torch.as_tensor(runtime.prepare(model, x)()), model(x)
    return float((output - expected).norm() / expected.norm())


def test_every_call_reads_the_same_input_and_writes_the_output_anew() -> None:
    torch.manual_seed(0)
    model, x = models.build("resnet_cifar", blocks=[1, 1], widths=[8, 16]).eval(), torch.randn(1, 3, 16, 16)
    call = make_runtime("openvino").prepare(model, x)
    first = torch.as_tensor(call()).clone()
    x.zero_()
    assert torch.equal(torch.as_tensor(call()), first)


def test_bf16_is_the_same_network_less_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = models.build("resnet_cifar", blocks=[1, 1], widths=[16, 32]).eval(), torch.randn(1, 3, 16, 16)
    runtime = make_runtime("openvino_bf16")
    if not runtime.objection(model):
        assert 1e-5 < relative_error("openvino_bf16", model, x) < runtime.tolerance
    monkeypatch.setattr(machine, "describe", lambda: {"isa": ["avx2"]})
    assert runtime.objection(model) == "this processor has no bf16 instructions"


def test_bf16_is_for_networks_without_compressed_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "describe", lambda: {"isa": ["avx512_bf16"]})
    runtime = make_runtime("openvino_bf16")
    assert not runtime.objection(models.build("plain"))
    assert runtime.objection(intraq_network(4)).startswith("masks and quantizers win nothing here")


@pytest.mark.parametrize("bits", [3, 4, 5])
def test_a_quantized_network_runs_in_int8_with_the_methods_own_scales(bits: int) -> None:
    runtime = make_runtime("openvino_int8")
    assert_on_the_models_grids(runtime, intraq_network(bits))
    assert runtime.describe()["layers"] == "6 of 7 layers in int8"  # the first one reads float images


def test_int8_is_for_quantized_networks_that_have_an_integer_form() -> None:
    runtime = make_runtime("openvino_int8")
    assert runtime.objection(models.build("plain")) == "nothing is quantized"
    assert not runtime.objection(intraq_network(4))
    with pytest.raises(Skip, match="need more than int8"):
        runtime.prepare(intraq_network(8), torch.randn(1, 3, 16, 16))


def test_a_model_without_onnx_form_is_skipped_with_a_reason() -> None:
    class Strange(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)

    with pytest.raises(Skip, match=r"no ONNX graph.*bessel"):
        make_runtime("openvino").prepare(Strange(), torch.ones(1, 1, 2, 2))
