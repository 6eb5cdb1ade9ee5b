"""Shared by the unstructured pruning methods: their configuration, and the records of their masks."""

from pydantic import Field
from torch import nn

from compressbench.config import MethodConfig
from compressbench.method import Context
from compressbench.pruning.masks import Scope, densities


class PruningConfig(MethodConfig):
    """How much to remove, compared within what, and which layers stay dense."""

    sparsity: float = Field(0.9, ge=0, lt=1, description="fraction removed of the prunable weights")
    scope: Scope = Field("global", description="compare weights over all prunable layers, or inside each")
    keep_first: bool = Field(False, description="leave the first layer dense")
    keep_last: bool = Field(False, description="leave the classifier dense")


def record_densities(ctx: Context, model: nn.Module) -> None:
    """Record the kept share of every masked layer."""
    for name, density in densities(model).items():
        ctx.record(f"density_{name}", density)
