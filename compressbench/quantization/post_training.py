"""Post-training quantization: fold batch norms, choose ranges on calibration images, store the grids. No training."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressbench.config import MethodConfig
from compressbench.errors import UserError
from compressbench.layers.folding import fold_norms
from compressbench.layers.quantized import quantize_layer
from compressbench.layers.quantizers import Scheme, make_grid, minmax_range, mse_range, percentile_range
from compressbench.layers.registry import replace_modules
from compressbench.method import Context
from compressbench.models.structure import AnyModule

Calibration = Literal["real", "gaussian", "bn"]
Clipping = Literal["minmax", "percentile", "mse"]
Range = tuple[Tensor, Tensor]
SAMPLE = 65_536


class PostTrainingConfig(MethodConfig):
    """Bits, schemes and calibration images of a post-training quantization."""

    weight_bits: int = Field(4, ge=2, le=16)
    activation_bits: int = Field(4, ge=1, le=16)
    first_last_bits: int | None = Field(
        8, ge=2, le=16, description="weights and inputs of first and last layer; null: as the others"
    )
    weight_scheme: Scheme = "symmetric"
    per_channel: bool = Field(
        True, description="a weight range per output channel; activations always have one per tensor"
    )
    activation_scheme: Scheme = "asymmetric"
    calibration: Calibration = Field(
        "real",
        description="images that set the activation ranges. real: training images. gaussian: N(0, 1) noise, data-free. "
        "bn: the same noise, every batch norm normalising by the batch: its output has the mean and deviation that it "
        "has on training data",
    )
    images: int = Field(1024, ge=1)
    batch_size: int = Field(256, ge=2)
    percentile: float = Field(99.99, gt=50, le=100, description="with clipping: percentile")


@dataclass
class InputRange:
    """What calibration saw at the input of one layer: minimum and maximum, percentiles per batch, a sample of values."""

    percentile: float
    lo: Tensor = field(default_factory=lambda: torch.tensor(torch.inf))
    hi: Tensor = field(default_factory=lambda: torch.tensor(-torch.inf))
    percentiles: list[Range] = field(default_factory=list)
    sample: list[Tensor] = field(default_factory=list)

    def update(self, x: Tensor, clipping: Clipping, scheme: Scheme) -> None:
        """Add one batch."""
        lo, hi = minmax_range(x)
        self.lo, self.hi = torch.minimum(self.lo.to(lo), lo), torch.maximum(self.hi.to(hi), hi)
        if clipping == "percentile":
            self.percentiles.append(
                percentile_range(x, self.percentile, "symmetric" if scheme == "symmetric" and lo < 0 else "asymmetric")
            )
        if clipping == "mse":
            self.sample.append(x.flatten()[:: -(-x.numel() // SAMPLE)])

    def choose(self, clipping: Clipping, bits: int, scheme: Scheme) -> Range:
        """The range; percentiles are averaged over batches, squared errors added up over an even sample of every batch."""
        if clipping == "percentile":
            lows, highs = zip(*self.percentiles, strict=True)
            return torch.stack(lows).mean(), torch.stack(highs).mean()
        if clipping == "mse":
            return mse_range(
                torch.cat([*self.sample, self.lo[None], self.hi[None]]), bits, scheme, signed=bool(self.lo < 0)
            )
        return self.lo, self.hi


def _weight_layers(model: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if type(m) in (nn.Conv2d, nn.Linear)}


@torch.no_grad()
def observe(
    model: nn.Module, batches: Iterable[Tensor], config: PostTrainingConfig, clipping: Clipping
) -> dict[str, InputRange]:
    """The input range of every convolution and linear layer, by name."""
    ranges = {name: InputRange(config.percentile) for name in _weight_layers(model)}

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: ranges[name].update(inputs[0], clipping, config.activation_scheme)

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in _weight_layers(model).items()]
    try:
        for images in batches:
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return ranges


@contextmanager
def normalising_by_batch(model: nn.Module) -> Iterator[None]:
    """Batch norms use the statistics of the batch and remember nothing."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    if not norms:
        raise UserError(
            "calibration: bn needs batch normalisation in the network; choose calibration: gaussian or real."
        )
    remembered = [(norm.training, norm.track_running_stats) for norm in norms]
    for norm in norms:
        norm.training, norm.track_running_stats = True, False
    try:
        yield
    finally:
        for norm, (training, tracking) in zip(norms, remembered, strict=True):
            norm.training, norm.track_running_stats = training, tracking


def calibration_ranges(
    model: nn.Module, ctx: Context, config: PostTrainingConfig, clipping: Clipping
) -> dict[str, InputRange]:
    """Run the calibration images through the float network."""
    generator = ctx.generator("calibration")
    if config.calibration == "real":
        train = ctx.data.train
        chosen = torch.randperm(len(train), generator=generator)[: config.images].split(config.batch_size)
        batches = (train.images_at(part).to(ctx.device) for part in chosen)
    else:
        images = torch.randn(config.images, ctx.info.channels, ctx.info.size, ctx.info.size, generator=generator)
        batches = (part.to(ctx.device) for part in images.split(config.batch_size))
    if config.calibration != "bn":
        return observe(model, batches, config, clipping)
    with normalising_by_batch(model):
        return observe(model, batches, config, clipping)


def weight_range(weight: Tensor, bits: int, config: PostTrainingConfig, clipping: Clipping) -> Range:
    """Scalars, or [channels, 1, ...] per channel."""
    if clipping == "percentile":
        return percentile_range(weight, config.percentile, config.weight_scheme, config.per_channel)
    if clipping == "mse":
        return mse_range(weight, bits, config.weight_scheme, per_channel=config.per_channel)
    return minmax_range(weight, config.per_channel)


@torch.no_grad()
def quantize_post_training(
    model: AnyModule, ranges: dict[str, InputRange], config: PostTrainingConfig, clipping: Clipping
) -> AnyModule:
    """Fold, then quantize the weight and the input of every convolution and linear layer, in place; returns the model."""
    fold_norms(model)
    layers = _weight_layers(model)
    ends = {next(iter(layers)), next(reversed(layers))}

    def replace(name: str, module: nn.Module) -> nn.Module | None:
        if name not in layers:
            return None
        special = config.first_last_bits if name in ends else None
        weight_bits, input_bits = special or config.weight_bits, special or config.activation_bits
        signed = bool(ranges[name].lo < 0)
        asymmetric = config.activation_scheme == "asymmetric"
        inputs: Literal["asymmetric", "symmetric", "unsigned"] = (
            "asymmetric" if asymmetric else "symmetric" if signed else "unsigned"
        )
        layer = quantize_layer(module, weight_bits, input_bits, config.weight_scheme, config.per_channel, inputs)
        weights = make_grid(
            *weight_range(layer.weight, weight_bits, config, clipping), weight_bits, config.weight_scheme
        )
        chosen = ranges[name].choose(clipping, input_bits, config.activation_scheme)
        activations = make_grid(*chosen, input_bits, config.activation_scheme, signed)
        layer.weight_scale.copy_(weights.scale)
        layer.weight_zero_point.copy_(weights.zero_point)
        layer.input_scale.copy_(activations.scale)
        layer.input_zero_point.copy_(activations.zero_point)
        return layer

    return replace_modules(model, replace)
