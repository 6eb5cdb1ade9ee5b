"""Shared by all architectures: description, free inner widths, base classes."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from compressbench.errors import UserError

AnyModule = TypeVar("AnyModule", bound=nn.Module)
"""Of functions that give back the module that they get."""
ClassifierKind = Literal["conv", "linear"]


@dataclass(frozen=True)
class ModelSpec:
    """The architecture's name and the arguments that build it; both go into a stored model as JSON."""

    architecture: str
    arguments: dict[str, Any] = field(default_factory=dict)


Link = tuple[str, str | None]
"""A convolution and its normalisation."""


@dataclass(frozen=True)
class Coupling:
    """Output channels that may be reordered or removed, and everything that is indexed by them.

    Names are module names. `key` is the name in `inner_widths` that sets the number of channels.
    """

    producer: str
    norm: str | None
    consumers: tuple[str, ...]
    followers: tuple[Link, ...] = ()
    """Depthwise convolutions between producer and consumers, each with its normalisation."""
    gates: tuple[str, str] | None = None
    """The squeeze-excite convolutions: input columns of the first, output rows of the second."""
    activation: str | None = None
    """The module that leaves these channels as the consumers read them."""
    added: tuple[Link, ...] = ()
    """Further convolutions whose outputs are added to the producer's (residual sums)."""
    shortcuts: tuple[Link, ...] = ()
    """The shortcut convolutions among those that are added."""
    group: str | None = None
    """The key of channels that several convolutions share."""
    offset: int = 0
    """The first of these channels in a concatenation that the consumers read."""
    pixels: int = 1
    """The columns of a consumer that belong to one channel: the pixels of a map that a linear layer reads flattened."""
    padded: bool = False
    """A shortcut pads these channels with zeros: their number is free, their choice and order are not."""

    @property
    def key(self) -> str:
        """The name of the channels: that of the group, or of the only producer."""
        return self.group or self.producer

    @property
    def outputs(self) -> tuple[Link, ...]:
        """Every convolution with these output channels, and its normalisation."""
        return ((self.producer, self.norm), *self.added, *self.shortcuts, *self.followers)


class Network(nn.Module):
    """A network of the suite, which `build` has given its spec: what methods may ask of any of them."""

    spec: ModelSpec

    def features(self, images: Tensor) -> Tensor:
        """What the network reads -> what its last part reads."""
        raise NotImplementedError

    def taps(self) -> tuple[str, ...]:
        """The modules whose outputs are the feature maps that distillation looks at, shallow to deep; often none."""
        return ()

    def couplings(self) -> tuple[Coupling, ...]:
        """The channels whose number is free, in forward order."""
        return ()

    def inner_couplings(self) -> tuple[Coupling, ...]:
        """Those of a single convolution: they take part in no sum."""
        return tuple(coupling for coupling in self.couplings() if coupling.group is None)

    def names_in_files(self) -> dict[str, str]:
        """Tensor -> its name in a file of one's own, where that is another one; of the suite's networks none."""
        return {}

    def binary_convolutions(self) -> tuple[str, ...]:
        """The convolutions that binary methods make binary, in forward order; often none."""
        return ()


class Classifier(Network):
    """An image classifier: subclasses set `body`, `pool` and `classifier`."""

    body: nn.Module
    pool: nn.Module
    classifier: nn.Module
    classifier_kind: ClassifierKind = "linear"

    def features(self, images: Tensor) -> Tensor:
        """[N, c, H, W] -> pooled features [N, C]."""
        return self.pool(self.body(images)).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """[N, c, H, W] -> logits [N, classes]."""
        features = self.features(images)
        if self.classifier_kind == "conv":
            return self.classifier(features[:, :, None, None]).flatten(1)
        return self.classifier(features)


class SuperResolver(Network):
    """A super-resolution network: subclasses define `features` (body after the global skip) and `reconstruct`.

    No inner width is free in the published experiments on these networks.

    upscaling: the factor by which height and width grow; the architectures' argument for it is called `scale`, as EDSR's.
    """

    upscaling: int

    def features(self, low: Tensor) -> Tensor:
        """RGB 0..255 [N, 3, h, w] -> [N, C, h, w], the body's output before the upsampler."""
        raise NotImplementedError

    def reconstruct(self, features: Tensor) -> Tensor:
        """[N, C, h, w] -> RGB 0..255 [N, 3, upscaling h, upscaling w]."""
        raise NotImplementedError

    def forward(self, low: Tensor) -> Tensor:
        """RGB 0..255 [N, 3, h, w] -> [N, 3, upscaling h, upscaling w]."""
        return self.reconstruct(self.features(low))


def submodule(model: nn.Module, name: str, kind: type[AnyModule]) -> AnyModule:
    """The module of that name, which has to be of class `kind`; TypeError where it is of another."""
    found = model.get_submodule(name)
    if not isinstance(found, kind):
        raise TypeError(f"{name} is a {type(found).__name__}, not a {kind.__name__}")
    return found


def network_of(model: nn.Module, kind: type[AnyModule]) -> AnyModule:
    """`model` itself, which has to be of class `kind`; UserError where it is of another."""
    if not isinstance(model, kind):
        raise UserError(f"a {kind.__name__} is needed here, not a {type(model).__name__}; choose another architecture.")
    return model


class Geometry(NamedTuple):
    """How a convolution slides over its input, in the order of `nn.Conv2d`'s arguments."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] | str
    dilation: tuple[int, int]


def geometry(conv: nn.Conv2d) -> Geometry:
    """That of a convolution, for another one like it."""
    padding = conv.padding if isinstance(conv.padding, str) else _pair(conv.padding)
    return Geometry(_pair(conv.kernel_size), _pair(conv.stride), padding, _pair(conv.dilation))


def _pair(sizes: tuple[int, ...]) -> tuple[int, int]:
    height, width = sizes
    return height, width


def conv_unit(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    activation: Callable[[], nn.Module] | None = nn.ReLU,
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    same: bool = False,
) -> nn.Sequential:
    """Convolution (`conv`), batch normalisation (`bn`), activation (`act`).

    `same` pads as TensorFlow does: at stride 2, maps of even size get a row and a column less in front (`pad`).
    """
    half = kernel // 2
    shifted = same and stride == 2
    conv = nn.Conv2d(inputs, outputs, kernel, stride, 0 if shifted else half, groups=groups, bias=bias)
    layers: dict[str, nn.Module] = {"pad": nn.ZeroPad2d((half - 1, half) * 2)} if shifted else {}
    layers |= {"conv": conv, "bn": norm(outputs)}
    return nn.Sequential(OrderedDict(layers | {"act": activation()} if activation else layers))


def chain(units: Sequence[str], last: str = "classifier") -> tuple[Coupling, ...]:
    """The couplings of `conv_unit`s one after the other: each feeds the next one, the last one `last`."""
    consumers = [f"{unit}.conv" for unit in units[1:]] + [last]
    return tuple(
        Coupling(f"{unit}.conv", f"{unit}.bn", (consumer,), activation=f"{unit}.act")
        for unit, consumer in zip(units, consumers, strict=True)
    )


def make_classifier(kind: ClassifierKind, features: int, classes: int) -> nn.Module:
    """A 1x1 convolution without bias, or a linear layer with bias."""
    if kind not in ("conv", "linear"):
        raise ValueError(f"classifier must be 'conv' or 'linear', not {kind!r}")
    return nn.Conv2d(features, classes, 1, bias=False) if kind == "conv" else nn.Linear(features, classes)


@torch.no_grad()
def initialise_kaiming(module: nn.Module, mode: Literal["fan_in", "fan_out"] = "fan_in") -> None:
    """Kaiming normal with ReLU gain for every convolution and linear layer, zero biases (He et al. 2015)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def inner_width(widths: Mapping[str, int] | None, name: str, default: int) -> int:
    """The width of convolution `name`: the published one unless `widths` says otherwise."""
    return default if widths is None else int(widths.get(name, default))
