"""DDTB: activations quantized between two trainable bounds, which a gate rescales per sample in the most dynamic layers."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from compressbench.config import MethodConfig
from compressbench.layers.bounds import BoundedActivation, Bounds, bounded_activations
from compressbench.layers.gates import GateGradient
from compressbench.layers.ranged import RangedConv2d, WeightRange
from compressbench.method import Context, Deployment, Method, PublishedCount
from compressbench.models import Network
from compressbench.models.structure import AnyModule
from compressbench.quantization.super_resolution import (
    calibrate,
    first_forward,
    quantization_points,
    quantize_convolutions,
    quantize_points,
    teacher_loss,
)
from compressbench.training import Hook, LearningRate, State, schedule_factor
from methods.ddtb.counts import recomputed_facts
from methods.ddtb.deployments import deployments

PAPER_EPOCHS = 60
PAPER_REGULARISED = 5
PER_NETWORK: dict[str, dict[str, Any]] = {
    "edsr": {"dynamic_ratio": 0.3, "percentile": 99.0, "weight_range": "percentile"},
    "rdn": {"dynamic_ratio": 0.5, "percentile": 95.0, "weight_range": "minmax"},
    "srresnet": {"dynamic_ratio": 0.1, "percentile": 99.0, "weight_range": "percentile"},
}


class DDTBConfig(MethodConfig):
    """Hyper-parameters; None is the paper's value for the network (`PER_NETWORK`)."""

    bits: Literal[2, 3, 4, 32] = Field(description="of weights and activations of the body")
    bounds: Bounds = Field(
        "dual", description="dual: two bounds per quantizer; symmetric: one and its negative, as PAMS"
    )
    gates: bool = Field(True, description="rescale the bounds of the most dynamic quantizers per sample")
    trained: bool = Field(True, description="False: bounds from percentiles, no training (post-training quantization)")
    dynamic_ratio: float | None = Field(None, ge=0, le=1, description="fraction of the quantizers that get a gate")
    percentile: float | None = Field(
        None, gt=50, le=100, description="M: the bounds start at the M-th and (100 - M)-th"
    )
    constant_start: float | None = Field(None, gt=0, description="start at ± this (the code: 10, at 3 and 4 bits)")
    weight_range: WeightRange | None = Field(None, description="range of a layer's weights")
    weight_percentile: float = Field(99.0, gt=50, le=100)
    attention_weight: float = Field(1000.0, ge=0, description="factor of the teacher's attention loss")
    bounds_lr_ratio: float = Field(100.0, gt=0, description="learning rate of the bounds over that of everything else")
    gate_gradient: GateGradient = Field(
        "detached", description="detached: the code; straight_through: all of the gate learns"
    )


def dynamic_intensity(maxima: list[float], minima: list[float]) -> float:
    """DI = var(maxima) + var(minima) over the calibration batches, population variances."""
    values = torch.tensor([maxima, minima], dtype=torch.float64)
    return values.var(dim=1, correction=0).sum().item()


def select_dynamic(intensity: Mapping[str, float], ratio: float) -> list[str]:
    """The names of the int(ratio·n) largest intensities; equal ones by order."""
    ranked = sorted(intensity, key=lambda name: -intensity[name])
    return ranked[: int(ratio * len(ranked))]


class Ranges:
    """Records (max, min) of every call of the named modules: hooks on the identities at the quantization points."""

    def __init__(self, model: nn.Module, names: list[str]):
        self.seen: dict[str, list[Tensor]] = {name: [] for name in names}
        self.channels: dict[str, int] = {}
        self.handles = [model.get_submodule(name).register_forward_pre_hook(self._hook(name)) for name in names]

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.seen[name].append(torch.stack([inputs[0].max(), inputs[0].min()]))
            self.channels[name] = inputs[0].shape[1]

        return record

    def finish(self) -> dict[str, float]:
        """The dynamic intensity of every module; removes the hooks."""
        for handle in self.handles:
            handle.remove()
        return {name: dynamic_intensity(*torch.stack(pairs, dim=1).tolist()) for name, pairs in self.seen.items()}


def regularised_epochs(epochs: int) -> int:
    """Of a run of so many epochs, the first one being calibration: the last one in which gates are regularised, not applied.

    5 of the paper's 60; in proportion for shorter runs, at least the first trained one.
    """
    return max(2, round(PAPER_REGULARISED * epochs / PAPER_EPOCHS))


class Phases(Hook):
    """Gates are switched on for good after the regularised epochs. Trained epoch 0 is epoch 2 of the run."""

    def __init__(self, epochs: int):
        self.regularised = regularised_epochs(epochs)

    def gating(self, epoch: int) -> bool:
        """Are gates applied in this trained epoch (from 0)?"""
        return epoch + 2 > self.regularised

    def on_epoch_start(self, state: State) -> None:
        set_gating(state.model, self.gating(state.epoch))


def set_gating(model: nn.Module, gating: bool) -> None:
    """Apply the gates, or only compute them."""
    for quantizer in bounded_activations(model).values():
        quantizer.gating, quantizer.logits = gating, None


def gate_regulariser(model: nn.Module) -> Tensor | float:
    """Mean over the dynamic quantizers of mean(logit²), which pulls beta to 1; 0 where gates are applied."""
    logits = [q.logits for q in bounded_activations(model).values() if q.logits is not None and not q.gating]
    return torch.stack([values.square().mean() for values in logits]).mean() if logits else 0.0


def parameter_groups(model: nn.Module, lr: float, ratio: float) -> list[dict[str, Any]]:
    """Weights, biases, batch norms and gates; then all bounds with `ratio` times the rate."""
    bounds = [b for q in bounded_activations(model).values() for b in (q.upper, q.lower) if b is not None]
    known = {id(bound) for bound in bounds}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    return [{"params": rest, "lr": lr}, {"params": bounds, "lr": lr * ratio}]


class DDTB(Method):
    """Dynamic dual trainable bounds. Compress: calibrate, select, start the bounds. Finetune: the rest of the run."""

    Config = DDTBConfig
    config: DDTBConfig

    def _chosen(self, ctx: Context, key: str) -> Any:
        value = getattr(self.config, key)
        return PER_NETWORK[ctx.spec.architecture][key] if value is None else value

    def compress(self, ctx: Context) -> Network:
        model, recipe, batches = ctx.dense(), ctx.recipes.finetune, ctx.batches(ctx.recipes.finetune)
        steps = recipe.steps_per_epoch or batches.steps_per_epoch
        ranges = Ranges(model, quantization_points(model))
        calibrate(model, batches, steps, ctx.device)
        intensity = ranges.finish()
        dynamic = select_dynamic(intensity, self._chosen(ctx, "dynamic_ratio")) if self._gated else []
        quantized = self.quantize(ctx, model, {name: ranges.channels[name] for name in dynamic})
        first_forward(quantized, batches(steps)[0].to(ctx.device), train=self.config.trained)
        ctx.record("quantizers", len(intensity))
        ctx.record("dynamic_quantizers", len(dynamic))
        return quantized

    @property
    def _gated(self) -> bool:
        return self.config.gates and self.config.bounds == "dual" and self.config.bits < 32

    def quantize(self, ctx: Context, model: AnyModule, gates: Mapping[str, int]) -> AnyModule:
        """Put the quantizers in; `gates`: name -> channels of those that get one."""
        config = self.config
        percentile, weight_range = self._chosen(ctx, "percentile"), self._chosen(ctx, "weight_range")

        def activation(name: str, _: nn.Module) -> nn.Module:
            return BoundedActivation(
                config.bits, config.bounds, percentile, config.constant_start, gates.get(name), config.gate_gradient
            )

        def weight(_: str, layer: nn.Module) -> nn.Module:
            ranges = {"weight_range": weight_range, "percentile": config.weight_percentile}
            return RangedConv2d.rebuild(layer, {"weight_bits": config.bits, "input_bits": config.bits} | ranges)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ctx.generator("gates").initial_seed())
            quantized = quantize_convolutions(quantize_points(model, activation), weight)
        set_gating(quantized, False)
        return quantized

    def finetune(self, ctx: Context, model: Network) -> Network:
        if not self.config.trained or self.config.bits == 32:
            return model
        recipe, batches = ctx.recipes.finetune, ctx.batches(ctx.recipes.finetune)
        steps = recipe.steps_per_epoch or batches.steps_per_epoch
        rate = schedule_factor(recipe, recipe.epochs, steps)
        task = teacher_loss(ctx.dense(), self.config.attention_weight)
        groups = parameter_groups(model, recipe.lr, self.config.bounds_lr_ratio)
        # calibration was the first epoch: batches and schedule go on from the second
        model = ctx.fit(
            model,
            recipe,
            loss=lambda student, batch: task(student, batch) + gate_regulariser(student),
            optimizers=[ctx.optimizer(recipe, groups)],
            hooks=[LearningRate(lambda step: rate(step + steps)), Phases(recipe.epochs)],
            batches=lambda step: batches(step + steps),
            epochs=max(1, recipe.epochs - 1),
            steps_per_epoch=steps,
            schedule=None,
        )
        set_gating(model, True)
        return model

    @classmethod
    def published_counts(cls) -> list[PublishedCount]:
        return recomputed_facts()

    @classmethod
    def deployments(cls) -> list[Deployment]:
        return deployments(cls)
