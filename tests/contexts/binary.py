"""A small binary network, and a context with one on the digits."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from compressbench import models
from compressbench.layers.binary import SignConv2d, binarise
from compressbench.method import Context
from tests.contexts import make_context

NETWORK = {"in_channels": 1, "blocks": [1, 1], "widths": [4, 8], "stem_stride": 2}


def make_binary_context(data_root: Path, folder: Path, **recipe: object) -> Context:
    """One epoch or more of 18 steps."""
    ctx = make_context(data_root, folder, **recipe)
    own = {"architecture": "binary_resnet_cifar", "arguments": NETWORK}
    return replace(ctx, pair=ctx.pair.model_copy(update=own), dense_folder=None)


def binary_network(form: str = "recu") -> nn.Module:
    """Four convolutions of signs with the mean magnitude as their scale."""
    torch.manual_seed(1)
    model = models.build("binary_resnet_cifar", blocks=[1, 1], widths=[8, 12], in_channels=1, form=form)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):  # as after training: a sum of signs is an integer, often 0
            layer.bias.data.normal_()
    return binarise(model, lambda layer: SignConv2d.rebuild(layer, {"scaling": "mean"}))
