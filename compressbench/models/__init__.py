"""The papers' architectures. `build` is the only entry: it attaches the spec from which a stored model is rebuilt."""

import inspect
from collections.abc import Callable
from typing import Any

from compressbench.errors import UserError
from compressbench.models.bicubic import Bicubic
from compressbench.models.binary import (
    BinaryVGG,
    binary_resnet18,
    binary_resnet18_cifar,
    binary_resnet34,
    binary_resnet_cifar,
)
from compressbench.models.densenet import DenseNet
from compressbench.models.googlenet import GoogLeNet
from compressbench.models.growing import GrowingClassifier
from compressbench.models.mobilenet import (
    mobilenet_mini,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3_large,
    mobilenet_v3_small,
)
from compressbench.models.plain import Plain
from compressbench.models.resnet import resnet18, resnet34, resnet50, resnet_cifar
from compressbench.models.structure import Classifier, Coupling, ModelSpec, SuperResolver
from compressbench.models.super_resolution import EDSR, RDN, SRResNet
from compressbench.models.switchable import SeparateSubnets, Switchable
from compressbench.models.vgg import VGG
from compressbench.models.vit import CoarseToFineViT, VisionTransformer
from compressbench.models.wide_resnet import WideResNet

__all__ = ["ARCHITECTURES", "Classifier", "Coupling", "ModelSpec", "SuperResolver", "build"]

ARCHITECTURES: dict[str, Callable[..., Classifier | SuperResolver]] = {
    "bicubic": Bicubic,
    "binary_resnet18": binary_resnet18,
    "binary_resnet18_cifar": binary_resnet18_cifar,
    "binary_resnet34": binary_resnet34,
    "binary_resnet_cifar": binary_resnet_cifar,
    "binary_vgg_small": BinaryVGG,
    "coarse_to_fine_vit": CoarseToFineViT,
    "densenet": DenseNet,
    "edsr": EDSR,
    "googlenet": GoogLeNet,
    "growing": GrowingClassifier,
    "mobilenet_mini": mobilenet_mini,
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3_large": mobilenet_v3_large,
    "mobilenet_v3_small": mobilenet_v3_small,
    "plain": Plain,
    "rdn": RDN,
    "separate_subnets": SeparateSubnets,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet_cifar": resnet_cifar,
    "srresnet": SRResNet,
    "switchable": Switchable,
    "vgg": VGG,
    "vit": VisionTransformer,
    "wide_resnet": WideResNet,
}


def build(architecture: str, **arguments: Any) -> Any:
    """A freshly initialised network (drawn from torch's current generator) with `model.spec` attached."""
    if architecture not in ARCHITECTURES:
        raise UserError(f"unknown architecture {architecture!r}: choose one of {', '.join(sorted(ARCHITECTURES))}")
    constructor = ARCHITECTURES[architecture]
    unknown = set(arguments) - set(inspect.signature(constructor).parameters)
    if unknown:
        raise UserError(f"architecture {architecture} has no argument {', '.join(sorted(unknown))}")
    try:
        model: Classifier | SuperResolver = constructor(**arguments)
    except ValueError as error:
        raise UserError(f"architecture {architecture}: {error}") from error
    _check_inner_widths(model, arguments.get("inner_widths"))
    model.spec = ModelSpec(architecture, arguments)
    return model


def _check_inner_widths(model: Classifier | SuperResolver, inner_widths: dict[str, int] | None) -> None:
    """A misspelt name would silently leave a layer at its full width."""
    unknown = set(inner_widths or {}) - {coupling.key for coupling in model.couplings()}
    if unknown:
        raise UserError(f"inner_widths names layers without a free width: {', '.join(sorted(unknown))}")
