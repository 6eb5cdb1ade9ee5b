"""A context with a small binary network on the digits."""

from dataclasses import replace
from pathlib import Path

from compressbench.method import Context

from .context import make_context

NETWORK = {"in_channels": 1, "blocks": [1, 1], "widths": [4, 8], "stem_stride": 2}


def make_binary_context(data_root: Path, folder: Path, **recipe: object) -> Context:
    """One epoch or more of 18 steps."""
    ctx = make_context(data_root, folder, **recipe)
    own = {"architecture": "binary_resnet_cifar", "arguments": NETWORK}
    return replace(ctx, pair=ctx.pair.model_copy(update=own), dense_folder=None)
