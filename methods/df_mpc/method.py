"""DF-MPC (arXiv 2307.00498): ternary layers, each compensated by the next layer with more bits. No data."""

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from compressbench.data_free.closed_forms import (
    FLOAT_BITS,
    DataFreeConfig,
    LayerPair,
    Rounded,
    Signal,
    input_signals,
    move_statistics,
    norm_moments,
    quantize_rest,
    recalibrated,
    restore,
    store,
    uniform,
)
from compressbench.errors import UserError
from compressbench.layers.folding import scale_and_shift
from compressbench.method import FLOAT, Context, Deployment, Method, PublishedCount
from compressbench.method.untrained import Applied
from compressbench.models import Network
from compressbench.models.published import NETWORKS
from methods.df_mpc import counts
from methods.df_mpc.compensation import Outputs, change, coefficients, loss, reader_change, ternary
from methods.df_mpc.layout import mean_bits, mixed_pairs

NOTE = "weights alone are rounded, and computed in fp32: smaller, not faster"


class DFMPC(Method):
    """Quantize every second layer to very few bits, compensate in the layer that reads it, restore both batch norms."""

    class Config(DataFreeConfig):
        """Bit widths, the objective, and the ablations. Without low_bits every layer has high_bits."""

        low_bits: int | None = Field(2, ge=2, le=16, description="2: ternary; 3 and more: uniform; null: no low layers")
        high_bits: int = Field(6, ge=2, le=32)
        low_layers: tuple[str, ...] | None = Field(
            None, min_length=1, description="patterns of the low layers; null: by the rule of layout.mixed_pairs"
        )
        ternary: Literal["layer", "filter"] = Field("layer", description="over what threshold and scale are taken")
        ternary_scale: bool = Field(True, description="false: -1, 0, 1 without alpha")
        lambda1: float = Field(1, ge=0, description="weight of the mean; 1: the exact second moment")
        lambda2: float = Field(0, ge=0, description="ridge on c")
        reestimate: bool = Field(True, description="data-free statistics for the batch norm of the low layer")
        compensate: bool = Field(True, description="multiply the next layer's input channels by c; false: c = 1")
        restore_next: bool = Field(True, description="data-free statistics for the batch norm of the next layer")

        @model_validator(mode="after")
        def _low_is_lower(self) -> "DFMPC.Config":
            if self.low_bits is not None and self.low_bits >= self.high_bits:
                raise ValueError(f"low_bits {self.low_bits} must be below high_bits {self.high_bits}")
            return self

    config: Config

    def check(self, network: Network) -> None:
        if self.config.low_bits is not None:
            input_signals(network)
            mixed_pairs(network, self.config.low_layers)

    @torch.no_grad()
    def compress(self, ctx: Context) -> Network:
        model = ctx.dense()
        if self.config.low_bits is not None:
            signals = input_signals(model)  # of the original network: pairs do not influence each other
            found = [self.compress_pair(model, pair, signals) for pair in mixed_pairs(model, self.config.low_layers)]
            for name, values in zip(
                ("coefficient", "correlation", "error_left"), zip(*found, strict=True), strict=True
            ):
                ctx.record(name, sum(values) / len(values))
        model = quantize_rest(model, self.config.high_bits)
        ctx.record("mean_bits", mean_bits(model))
        return recalibrated(ctx, model, self.config)

    def low(self, weight: Tensor) -> Rounded:
        """The weight of a low layer on its grid."""
        if self.config.low_bits == 2:
            return ternary(weight, self.config.ternary == "filter", self.config.ternary_scale)
        return uniform(weight, self.config.low_bits or FLOAT_BITS)

    def compress_pair(
        self, model: nn.Module, pair: LayerPair, signals: dict[str, Signal | None]
    ) -> tuple[float, float, float]:
        """Quantize one pair, in place: (mean c, mean correlation, objective at c relative to that at c = 1)."""
        config = self.config
        layer: Any = model.get_submodule(pair.layer)
        norm: Any = model.get_submodule(pair.norm)
        reader: Any = model.get_submodule(pair.reader)
        signal = signals[pair.layer]
        if signal is None:
            raise UserError(f"df_mpc: {pair.layer} reads what no batch norm describes; leave it out of low_layers.")

        low = self.low(layer.weight.detach())
        shift, ratio, correlation = change(layer.weight.detach(), low.weight, signal)
        before = Outputs(*norm_moments(norm))
        if config.reestimate:
            move_statistics(norm, shift, ratio.square())
            after = Outputs(before.mean, before.std * (ratio > 0))
        else:
            slope, _ = scale_and_shift(norm, layer.bias)
            after = Outputs(before.mean + slope * shift, before.std * ratio)

        best = coefficients(correlation, before, after, config.lambda1, config.lambda2)
        c = best if config.compensate else torch.ones_like(best)
        weight = reader.weight.detach()
        scaled = weight.double() * c.reshape(1, -1, *[1] * (weight.dim() - 2))
        high = uniform(scaled.to(weight.dtype), config.high_bits)
        if config.restore_next:
            restore(model, pair, *reader_change(weight, high.weight, before, after))

        model.set_submodule(pair.layer, store(layer, low))
        model.set_submodule(pair.reader, store(reader, high))
        with_c, without = (
            float(loss(x, correlation, before, after, config.lambda1, config.lambda2).sum())
            for x in (c, torch.ones_like(c))
        )
        return float(c.mean()), float(correlation.mean()), with_c / without if without > 0 else 1.0

    @classmethod
    def published_counts(cls) -> list[PublishedCount]:
        """Weights, share of the low layers, memory and mean bits of the published kinds of network."""
        return counts.recompute()

    @classmethod
    def deployments(cls) -> list[Deployment]:
        config = cls.Config.model_validate({"low_bits": 2, "high_bits": 6})
        return [
            Deployment(
                NETWORKS[network],
                "2/6 bits",
                Applied(cls, config),
                FLOAT,
                representative=network == "ResNet-18",
                note=NOTE,
            )
            for network in ("ResNet-18", "ResNet-34")
        ]
