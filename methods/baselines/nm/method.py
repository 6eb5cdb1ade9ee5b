"""N:M sparsity: of every M consecutive input channels, N weights stay, per output channel and kernel position."""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from compressbench.config import MethodConfig
from compressbench.errors import UserError
from compressbench.layers.masked import masked, masked_layers
from compressbench.method import Context, Deployment, Method
from compressbench.models import Network
from compressbench.models.published import NETWORKS
from compressbench.pruning.config import record_densities
from compressbench.pruning.deployments import BLOCK_NETWORKS, OWN
from compressbench.pruning.masks import Masks, apply_masks, prunable, pull_removed, set_masks, zero_removed
from compressbench.pruning.one_shot import record_untrained_quality
from compressbench.pruning.trained_masks import STRAIGHT_THROUGH
from compressbench.training import Hook, State


@torch.no_grad()
def nm_mask(weight: Tensor, n: int, m: int) -> Tensor:
    """The n largest |W| of every m consecutive input channels; of equal ones the earlier stays.

    weight [c_out, c_in, ...], m divides c_in -> bool of the same shape. Groups are runs of m of [c_out, k, k, c_in].
    """
    magnitudes = weight.abs().movedim(1, -1)
    order = magnitudes.reshape(-1, m).argsort(dim=1, descending=True, stable=True)
    return (order.argsort(dim=1) < n).view(magnitudes.shape).movedim(-1, 1)


def nm_masks(model: nn.Module, n: int, m: int, keep_last: bool = False) -> Masks:
    """Masks of the layers whose input channels (per group of the convolution) m divides; the others stay dense."""
    layers = prunable(model, keep_last=keep_last)
    return {name: nm_mask(la.weight, n, m) for name, la in layers.items() if la.weight.shape[1] % m == 0}


@dataclass(frozen=True)
class Pattern:
    """For `Deployment.compress`: N of M of random weights."""

    n: int
    m: int

    def __call__(self, model: Network) -> nn.Module:
        return apply_masks(model, nm_masks(model, self.n, self.m, keep_last=True))


class Reselection(Hook):
    """Pulls removed weights towards 0, dL/dW += decay (1 - M) W, and chooses the masks anew after every step."""

    def __init__(self, n: int, m: int, decay: float):
        self.n, self.m, self.decay = n, m, decay

    def on_gradients(self, state: State) -> None:
        pull_removed(state.model, self.decay)

    def on_step_end(self, state: State) -> None:
        for layer in masked_layers(state.model).values():
            layer.mask.copy_(nm_mask(layer.weight, self.n, self.m))


class NM(Method):
    """One shot on the trained network and fine-tuning with fixed masks; or masks that follow the weights from scratch."""

    class Config(MethodConfig):
        """The pattern, and where it comes from."""

        n: int = Field(2, ge=1, description="weights kept of every m")
        m: int = Field(4, ge=2, description="consecutive input channels in a group")
        source: Literal["dense", "scratch"] = Field("dense", description="the trained network, or random weights")
        decay: float = Field(2e-4, ge=0, description="lambda: pull on removed weights, with source: scratch")
        keep_last: bool = Field(False, description="leave the classifier dense, as block methods do")

        @model_validator(mode="after")
        def _removes_something(self) -> "NM.Config":
            if self.n >= self.m:
                raise ValueError(f"n must be smaller than m, not {self.n} of {self.m}")
            return self

    config: Config

    def check(self, network: nn.Module) -> None:
        self._masks(network)

    def compress(self, ctx: Context) -> Network:
        model = self._trained_from_scratch(ctx) if self.config.source == "scratch" else self._pruned(ctx)
        record_densities(ctx, model)
        sparse = masked_layers(model)
        for name in (name for name in prunable(model) if name not in sparse):
            ctx.record(f"density_{name}", 1.0)
        return model

    def finetune(self, ctx: Context, model: Network) -> Network:
        return model if self.config.source == "scratch" else ctx.fit(model, ctx.recipes.finetune)

    def _masks(self, model: nn.Module) -> Masks:
        masks = nm_masks(model, self.config.n, self.config.m, self.config.keep_last)
        if not masks:
            raise UserError(
                f"m = {self.config.m} divides the input channels of no layer, so that nothing would be removed; choose a "
                "smaller m, or a pair whose widths are multiples of it."
            )
        return masks

    def _pruned(self, ctx: Context) -> Network:
        model = ctx.dense()
        apply_masks(model, self._masks(model))
        record_untrained_quality(ctx, model)
        return model

    def _trained_from_scratch(self, ctx: Context) -> Network:
        model, config = ctx.build(), self.config
        masks = self._masks(model)
        set_masks(masked(model, masks, forms=STRAIGHT_THROUGH), masks)
        ctx.fit(model, ctx.recipes.scratch, hooks=[Reselection(config.n, config.m, config.decay)])
        result = masked(ctx.build(), masks)
        result.load_state_dict(model.state_dict(), strict=True)
        zero_removed(result)
        return result.eval()

    @classmethod
    def deployments(cls) -> list[Deployment]:
        note = "sparse tensor cores compute it at twice the rate; processors have no such instruction"
        return [
            Deployment(NETWORKS[network], "2:4", Pattern(2, 4), OWN, representative=network == "ResNet-50", note=note)
            for network in BLOCK_NETWORKS
        ]
