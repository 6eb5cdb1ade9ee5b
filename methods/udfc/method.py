"""UDFC (arXiv 2308.07209): filters are removed, weights rounded, and the next layer corrected in closed form. No data."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressbench.data_free.closed_forms import consecutive_pairs, recalibrated
from compressbench.data_free.pruning import DataFreePruningConfig, prune_and_quantize, selection
from compressbench.method import FLOAT, Context, Deployment, Method, PublishedCount
from compressbench.method.untrained import Applied
from compressbench.models import Network
from compressbench.models.published import NETWORKS
from methods.udfc import counts
from methods.udfc.reconstruction import Objective, channels, closed_form, errors

NOTE = "weights are stored in few bits and computed in fp32: the cut filters save the time"


class UDFC(Method):
    """Rebuild what pruning and rounding took as a linear combination of the channels that are left."""

    class Config(DataFreePruningConfig):
        """The two weights of the objective, and the ablations."""

        alpha1: float = Field(0.01, ge=0, description="weight of the offsets' error")
        alpha2: float = Field(0.008, gt=0, description="ridge on S - E; the minimum is unique because it is positive")
        compensate: Literal["both", "pruned_only", "none"] = Field(
            "both",
            description="pruned_only: leave rounding errors alone; none: plain pruning and rounding, the control",
        )
        objective: Objective = Field(
            "folded", description="normalised: filters by direction, scaled by gamma, and offsets beta"
        )

    config: Config

    def check(self, network: Network) -> None:
        consecutive_pairs(network)

    def compress(self, ctx: Context) -> Network:
        left: list[float] = []

        def rebuild(layer: nn.Conv2d, norm: _BatchNorm, kept: Tensor, rounded: Tensor) -> Tensor:
            mixing, error = self.mixing(layer, norm, kept, rounded)
            left.append(error)
            return mixing

        model = prune_and_quantize(ctx.dense(), self.config, rebuild)
        ctx.record("error_left", sum(left) / len(left))
        return recalibrated(ctx, model, self.config)

    @torch.no_grad()
    def mixing(self, layer: nn.Conv2d, norm: _BatchNorm, kept: Tensor, rounded: Tensor) -> tuple[Tensor, float]:
        """S of one layer, and its objective relative to that of leaving the damage alone (S = E)."""
        config = self.config
        rows, offsets = channels(layer.weight, layer.bias, norm, config.objective)
        near = channels(rounded, layer.bias, norm, config.objective)[0][kept]
        plain = selection(len(rows), kept)
        if config.compensate == "none":
            return plain, 1.0
        mixing = closed_form(rows, offsets, kept, near, config.alpha1, config.alpha2)
        if config.compensate == "pruned_only":
            mixing[:, kept] = plain[:, kept]
        after, before = (
            float(errors(s, rows, offsets, kept, near, config.alpha1, config.alpha2).sum()) for s in (mixing, plain)
        )
        return mixing, after / before if before > 0 else 1.0

    @classmethod
    def published_counts(cls) -> list[PublishedCount]:
        """Counts of dense and pruned networks, and how much less memory their weights take."""
        return counts.recompute()

    @classmethod
    def deployments(cls) -> list[Deployment]:
        found = []
        for network in ("ResNet-18", "ResNet-34"):
            for ratio in (0.3, 0.5):
                setting, shown = f"{100 * ratio:g} % of the filters, 6 bits", (network, ratio) == ("ResNet-34", 0.3)
                compress = Applied(cls, cls.Config.model_validate({"ratio": ratio}))
                found.append(Deployment(NETWORKS[network], setting, compress, FLOAT, representative=shown, note=NOTE))
        return found
