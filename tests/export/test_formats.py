"""Files of every kind of layer, run without the suite."""

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from compressbench.data.preprocessing import Preprocessing
from compressbench.errors import UserError
from compressbench.export.check import compare
from compressbench.export.formats import FORMATS
from compressbench.export.portable import portable
from compressbench.layers.observed import observe
from compressbench.layers.quantized import track_ranges
from tests.layers.kinds import ACTIVATIONS, OTHER, RANGED, Layer
from tests.runtimes.test_integer import intraq_network

RGB = Preprocessing(8, 8, (0.5,) * 3, (0.25,) * 3)
BATCH = {0: "batch"}
ALONE = """
import sys
sys.modules["compressbench"] = None
import torch
program = torch.export.load("model.pt2")
torch.save(program.module()(torch.load("pixels.pt")), "outputs.pt")
"""


def images(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(count))


def between(module: nn.Module) -> nn.Module:
    """A network with the module between two convolutions, its ranges seen."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), module, nn.Conv2d(4, 4, 1), nn.ReLU()
    ).eval()
    with torch.no_grad():
        observe(model, True)
        track_ranges(model, True)
        model(images(8))
        observe(model, False)
        track_ranges(model, False)
    return model


def convolution(layer: Layer) -> nn.Module:
    torch.manual_seed(1)
    return layer(nn.Conv2d(4, 4, 3, padding=1))


KINDS = {f"layer {name}": (lambda layer=layer: convolution(layer)) for name, layer in (RANGED | OTHER).items()}
KINDS |= {f"activation {name}": make for name, make in ACTIVATIONS.items() if name != "gated bounds"}
KINDS["plain"] = nn.ReLU


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMATS)
def test_every_kind_of_layer_is_written_and_read(form: str, kind: str) -> None:
    model = between(KINDS[kind]())
    with torch.no_grad():
        expected = model((images() - 0.5) / 0.25)
    ready = portable(model, RGB)
    content = FORMATS[form].write(ready.network, images(), BATCH)
    found = compare(FORMATS[form].load(content)(images()), expected, ready.exact)
    assert found.relative < (0.05 if form == "onnx" else 1e-5)
    assert FORMATS[form].load(content)(images(3)).shape == (3, 4, 8, 8)


def test_an_onnx_file_has_the_methods_own_scales_around_integers() -> None:
    model = intraq_network(4)
    graph = onnx.load_from_string(
        FORMATS["onnx"].write(portable(model, RGB).network, torch.rand(2, 3, 16, 16), BATCH)
    ).graph
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    kinds = [node.op_type for node in graph.node if node.op_type not in ("Identity", "Constant")]
    assert kinds[:2] == ["Sub", "Div"] and {"QuantizeLinear", "DequantizeLinear"} <= {*kinds}
    codes = tensors["network.stem.conv.codes"]
    assert codes.dtype == "int8" and len(set(codes[0].flatten().tolist())) <= 16
    scale = torch.from_numpy(tensors["network.stem.act.round.scale"].copy())
    torch.testing.assert_close(scale, model.stem.act.grid().scale)  # type: ignore[union-attr]


def test_images_of_any_size_are_free_where_they_may_be() -> None:
    network = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2)).eval()
    for form in FORMATS.values():
        content = form.write(network, images(), BATCH | {2: "height", 3: "width"})
        larger = torch.rand(1, 3, 10, 6)
        torch.testing.assert_close(form.load(content)(larger), network(larger), rtol=1e-4, atol=1e-5)


def test_an_exported_program_runs_where_the_suite_is_not_installed(tmp_path: Path) -> None:
    ready = portable(intraq_network(4), RGB)
    pixels = torch.rand(3, 3, 16, 16)
    (tmp_path / "model.pt2").write_bytes(FORMATS["torch"].write(ready.network, pixels, BATCH))
    torch.save(pixels, tmp_path / "pixels.pt")
    subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path, check=True, timeout=120)
    torch.testing.assert_close(torch.load(tmp_path / "outputs.pt"), ready.network(pixels))


@pytest.mark.parametrize("form", FORMATS)
def test_what_has_no_graph_is_refused_in_one_sentence(form: str) -> None:
    class Strange(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x) if form == "onnx" else x[:, : int(x.sum())]

    with pytest.raises(UserError, match=r"no (ONNX )?graph: ") as refused:
        FORMATS[form].write(Strange(), images(), BATCH)
    assert "\n" not in str(refused.value)
