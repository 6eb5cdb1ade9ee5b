"""The activations of binary networks: `form` says whose authors', "recu" (arXiv 2103.12369) or "siman" (arXiv 2102.07981).

"relu" is the full-precision twin.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

FormName = Literal["relu", "recu", "siman"]
Activation = Callable[[int], nn.Module]
"""Channels -> module."""
ShortcutKind = Literal["slice", "pool", "conv"]


def _relu(channels: int) -> nn.Module:
    return nn.ReLU()


def hardtanh(channels: int) -> nn.Module:
    """Hardtanh, whatever the channels."""
    return nn.Hardtanh()


@dataclass(frozen=True)
class Form:
    """What differs between the authors' versions of one architecture."""

    stem: Activation
    activation: Activation
    shortcut: ShortcutKind
    """Where a block halves a small image: every second pixel, or the mean of 2x2; then zero channels on both sides."""


FORMS: dict[str, Form] = {
    "relu": Form(_relu, _relu, "slice"),
    "recu": Form(hardtanh, hardtanh, "pool"),
    "siman": Form(_relu, nn.PReLU, "slice"),
}


def form_of(name: str) -> Form:
    """The form of a name; ValueError lists them."""
    if name not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, not {name!r}")
    return FORMS[name]


def take_form(network: nn.Module, name: str) -> None:
    """Put the activations of a form in the place of every ReLU of a network with `conv_unit`s, in place.

    The first ReLU is that of the stem; a ReLU has the channels of the batch normalisation before it.
    """
    form, channels, activation = form_of(name), 0, form_of(name).stem
    for path, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            channels = module.num_features
        elif isinstance(module, nn.ReLU):
            network.set_submodule(path, activation(channels))
            activation = form.activation
