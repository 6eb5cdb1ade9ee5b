"""SiMaN (arXiv 2102.07981): the larger half of a filter's magnitudes becomes +1, the smaller half -1."""

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from compressbench.layers.binary import binarise, binary_layers
from compressbench.method import Context, Deployment, Method, PublishedCount
from compressbench.models import Network
from compressbench.quantization.binary_counts import BINARY_NETWORKS, counts_of_binary_networks
from compressbench.quantization.binary_training import BinaryConfig, check_network, train_binary
from compressbench.quantization.deployments import binary_networks
from compressbench.training import Hook, State
from methods.siman.layer import MagnitudeConv2d


class ClippingSchedule(Hook):
    """Sets p of every layer at the start of every epoch: p(e) = start (1 - e/E) percent."""

    def __init__(self, start: float):
        self.start = start

    def percent(self, epoch: int, epochs: int) -> float:
        """p(0) = start; p(epochs) would be 0."""
        return self.start * (1 - epoch / epochs)

    def on_epoch_start(self, state: State) -> None:
        state.metrics["p"] = self.percent(state.epoch, state.epochs)
        for layer in magnitude_layers(state.model):
            layer.set_p(state.metrics["p"])

    def on_epoch_end(self, state: State) -> None:
        """The share of ones, which ties keep below one half."""
        bits = torch.cat([layer.magnitude_bits.flatten() for layer in magnitude_layers(state.model)])
        state.metrics["share_of_ones"] = bits.float().mean().item()


def magnitude_layers(model: nn.Module) -> list[MagnitudeConv2d]:
    """The binary convolutions, in forward order."""
    return [layer for layer in binary_layers(model).values() if isinstance(layer, MagnitudeConv2d)]


def parameter_groups(model: nn.Module, decay_latent: bool) -> list[dict[str, Any]]:
    """Without weight decay: latent weights and scales of the binary convolutions, but for 1x1 shortcuts. With it: the rest."""
    free: list[Tensor] = []
    if not decay_latent:
        free = [p for layer in magnitude_layers(model) if layer.kernel_size != (1, 1) for p in layer.parameters()]
    known = {id(p) for p in free}
    decayed = [p for p in model.parameters() if id(p) not in known]
    return [{"params": decayed}, {"params": free, "weight_decay": 0.0}]


class SiMaN(Method):
    """One run from random latent weights, binary in every forward pass."""

    class Config(BinaryConfig):
        """Epochs, batch size, rate and weight decay are the pair's shared budget (recipes.scratch)."""

        p: float = Field(
            15.0, ge=0, lt=50, description="percent of a layer's weights clipped in each tail, at the start"
        )
        decay_latent: bool = Field(False, description="weight decay on latent weights and scales, too (ablation)")
        project_in_evaluation: bool = Field(
            False, description="project latent weights in eval mode, too (authors' code)"
        )

    config: Config

    def check(self, network: Network) -> None:
        check_network(network)

    def compress(self, ctx: Context) -> Network:
        config, model = self.config, self.network(ctx)
        groups = parameter_groups(model, config.decay_latent)
        return train_binary(ctx, model, groups=groups, hooks=[ClippingSchedule(config.p)], rate=config.rate)

    def network(self, ctx: Context) -> Network:
        """The authors' form of the pair's architecture; the scales are mean magnitudes of torch's default initialisation."""
        own = {"project_in_evaluation": self.config.project_in_evaluation}
        model = binarise(ctx.build(form="siman"), lambda layer: MagnitudeConv2d.rebuild(layer, own))
        random = ctx.generator("scales")
        for layer in magnitude_layers(model):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            default = torch.empty(layer.weight.shape).uniform_(-bound, bound, generator=random)
            layer.alpha.data.copy_(default.abs().mean((1, 2, 3)))
        return model

    @classmethod
    def published_counts(cls) -> list[PublishedCount]:
        """Counts of the published networks, and how many trained values decay."""
        found = counts_of_binary_networks("siman", "w1a1")
        for network in BINARY_NETWORKS:
            model = binarise(network.build(form="siman"), lambda layer: MagnitudeConv2d.rebuild(layer, {}))
            groups = parameter_groups(model, decay_latent=False)
            for metric, group in zip(("decayed", "not_decayed"), groups, strict=True):
                found.append(PublishedCount(network.name, "w1a1", metric, sum(p.numel() for p in group["params"])))
        return found

    @classmethod
    def deployments(cls) -> list[Deployment]:
        return binary_networks("siman")
