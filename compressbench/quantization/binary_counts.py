"""Counts of published binary networks: they need no training."""

from collections.abc import Sequence

from torch import nn

from compressbench import accounting
from compressbench.layers.binary import OneBitConv2d, binarise, binary_layers
from compressbench.method import PublishedCount
from compressbench.models.published import PublishedNetwork

MEGABYTE = 1e6
BINARY_NETWORKS = (
    PublishedNetwork("binary_resnet20", "binary_resnet_cifar", {}, 32),
    PublishedNetwork("binary_resnet18_cifar", "binary_resnet18_cifar", {}, 32),
    PublishedNetwork("binary_vgg_small", "binary_vgg_small", {}, 32),
    PublishedNetwork("binary_resnet18", "binary_resnet18", {}, 224),
    PublishedNetwork("binary_resnet34", "binary_resnet34", {}, 224),
)


def binary_counts(model: nn.Module, shape: Sequence[int]) -> dict[str, float]:
    """Of a network with binary layers, for one image [C, H, W]; the 32-bit reference of `compression` has no scales."""
    layers = binary_layers(model).values()
    rows = [row for row in accounting.layer_table(model, shape) if row.kind in ("conv", "linear")]
    macs = sum(row.macs for row in rows)
    binary_macs = sum(row.macs for row in rows if row.weight_bits == row.input_bits == 1)
    ops = sum(accounting.CONVENTIONS["binary_ops"].count(row) for row in rows)
    scales = sum(layer.out_channels for layer in layers if layer.scale() is not None)
    params, stored = sum(p.numel() for p in model.parameters()), accounting.stored_bytes(model)
    return {
        "binary_convolutions": len(layers),
        "binary_weights": sum(layer.weight.numel() for layer in layers),
        "scales": scales,
        "params": params,
        "binary_macs": binary_macs,
        "float_macs": macs - binary_macs,
        "ops": ops,
        "macs_per_op": macs / ops,
        "stored_mb": stored / MEGABYTE,
        "compression": 4 * (params - scales) / stored,
    }


def counts_of_binary_networks(form: str, setting: str) -> list[PublishedCount]:
    """The counts of all networks in one method's form, with a scale per filter."""
    found, settings = [], {"scaled": True, "centred": False}
    for network in BINARY_NETWORKS:
        model = binarise(network.build(form=form), lambda layer: OneBitConv2d.rebuild(layer, settings))
        found += [
            PublishedCount(network.name, setting, *count) for count in binary_counts(model, network.shape).items()
        ]
    return found
