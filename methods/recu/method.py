"""ReCU (arXiv 2103.12369): latent weights in the tails of a Laplace distribution are clamped before the sign."""

import math
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from compressbench.layers.binary import binarise, binary_layers
from compressbench.method import Context, Deployment, Method, PublishedCount
from compressbench.models import Network
from compressbench.quantization.binary_counts import counts_of_binary_networks
from compressbench.quantization.binary_training import BinaryConfig, Flips, check_network, train_binary
from compressbench.quantization.deployments import binary_networks
from compressbench.quantization.latent_weights import bit_entropy
from compressbench.training import Hook, State
from methods.recu.layer import RectifiedClampConv2d


def clamped_layers(model: nn.Module) -> list[RectifiedClampConv2d]:
    """The binary convolutions of this method, in forward order."""
    return [layer for layer in binary_layers(model).values() if isinstance(layer, RectifiedClampConv2d)]


class ClampSchedule(Hook):
    """Sets tau of every layer at the start of every epoch e of E.

    tau(e) = a exp(e/E) + tau_min - a, a = (tau_max - tau_min) / (exp(1) - 1).
    """

    def __init__(self, tau_min: float, tau_max: float):
        self.tau_min, self.tau_max = tau_min, tau_max

    def tau(self, epoch: int, epochs: int) -> float:
        """tau(0) = tau_min; tau(epochs) would be tau_max."""
        a = (self.tau_max - self.tau_min) / (math.e - 1)
        return a * math.exp(epoch / epochs) + self.tau_min - a

    def on_epoch_start(self, state: State) -> None:
        """Also logs the share of the latent weights beyond Q, and the mean entropy of a bit over the layers."""
        tau = self.tau(state.epoch, state.epochs)
        layers = clamped_layers(state.model)
        for layer in layers:
            layer.set_tau(tau)
        clamped = sum(int(layer.clamped().sum()) for layer in layers) / sum(layer.weight.numel() for layer in layers)
        entropy = sum(bit_entropy(layer.bits()) for layer in layers) / len(layers)
        state.metrics |= {"tau": tau, "clamped": 100 * clamped, "bit_entropy": entropy}


def convolutions_and_classifier(model: nn.Module) -> list[dict[str, Any]]:
    """Two groups: with the recipe's weight decay what the authors call `conv` or `fc`; without it norms and 1x1 shortcuts."""
    norms = {name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)}
    decayed: list[Tensor] = []
    rest: list[Tensor] = []
    for name, parameter in model.named_parameters():
        plain = name.rpartition(".")[0] in norms or "shortcut" in name.split(".")
        (rest if plain else decayed).append(parameter)
    return [{"params": decayed}, {"params": rest, "weight_decay": 0.0}]


class ReCU(Method):
    """One run from random latent weights, binary in every forward pass."""

    class Config(BinaryConfig):
        """Epochs, batch size, rate and weight decay are the pair's shared budget (recipes.scratch)."""

        tau_min: float = Field(0.85, gt=0.5, le=1, description="quantile of the clamp in the first epoch; 1: no clamp")
        tau_max: float = Field(0.99, gt=0.5, le=1, description="quantile that the schedule approaches")
        decay: Literal["all", "convolutions_and_classifier"] = Field(
            "all", description="what weight decay acts on: everything (CIFAR) or no norms and 1x1 shortcuts (ImageNet)"
        )

        @model_validator(mode="after")
        def _rises(self) -> "ReCU.Config":
            if self.tau_min > self.tau_max:
                raise ValueError("tau_min must not exceed tau_max")
            return self

    config: Config

    def check(self, network: Network) -> None:
        check_network(network)

    def compress(self, ctx: Context) -> Network:
        config, model = self.config, self.network(ctx)
        groups = convolutions_and_classifier(model) if config.decay != "all" else None
        hooks = [ClampSchedule(config.tau_min, config.tau_max), Flips()]
        return train_binary(ctx, model, groups=groups, hooks=hooks, rate=config.rate)

    def network(self, ctx: Context) -> Network:
        """The authors' form of the pair's architecture, the scales drawn uniformly from [0, 1)."""
        model = binarise(ctx.build(form="recu"), lambda layer: RectifiedClampConv2d.rebuild(layer, {}))
        random = ctx.generator("scales")
        for layer in clamped_layers(model):
            layer.alpha.data.copy_(torch.rand(layer.alpha.shape, generator=random))
        return model

    @classmethod
    def published_counts(cls) -> list[PublishedCount]:
        """Counts of the published networks."""
        return counts_of_binary_networks("recu", "w1a1")

    @classmethod
    def deployments(cls) -> list[Deployment]:
        return binary_networks("recu")
