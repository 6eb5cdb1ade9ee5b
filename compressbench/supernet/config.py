"""Budgets of a supernet, and the hyper-parameters that all methods with one share."""

from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor

from compressbench.config import Frozen, MethodConfig

Resource = Literal["macs", "latency"]


class Constraint(Frozen):
    """Budgets of one resource: a pool every `step` units, strictly between `start` and `stop`."""

    resource: Resource = "macs"
    start: int = Field(ge=0)
    stop: int
    step: int = Field(gt=0)
    unit: float = Field(
        default=1e6, gt=0, description="of start, stop and step: in multiply-accumulates, or microseconds"
    )

    device: Literal["cpu", "gpu"] = Field(default="cpu", description="whose latency it is, for a budget in latency")

    @model_validator(mode="after")
    def _ordered(self) -> "Constraint":
        if self.start >= self.stop:
            raise ValueError("start must be less than stop")
        return self

    @property
    def targets(self) -> range:
        """start + step, ..., stop - step."""
        return range(self.start + self.step, self.stop - self.step + 1, self.step)

    def target(self, cost: Tensor) -> Tensor:
        """int64 [N]: T(c) = int(round((m(c) - o) / step) * step + o), o = start mod step; ties go to even multiples.

        In double precision, as single precision takes some costs just beside a tie for one.
        """
        offset = self.start % self.step
        return ((cost.double() / self.unit - offset) / self.step).round().long() * self.step + offset

    def name(self, target: int) -> str:
        """Of the operating point."""
        return f"{'m' if self.resource == 'macs' else 'us'}{target}"

    def label(self, target: int) -> str:
        """The budget in words."""
        if self.resource == "latency":
            return f"{target * self.unit:g} µs"
        prefix = {1e3: "k", 1e6: "M", 1e9: "G"}.get(self.unit)
        return f"{target} {prefix}MACs" if prefix else f"{target * self.unit:g} MACs"


class SupernetConfig(MethodConfig):
    """The space of structures, and the budgets."""

    resolutions: tuple[int, int] = Field((128, 224), description="smallest and largest side of the input")
    resolution_step: int = Field(8, ge=1)
    min_width: float = Field(0.75, gt=0, le=1, description="the smallest width multiplier; the largest is 1")
    constraints: tuple[Constraint, ...] = Field(min_length=1)
    samples: int = Field(
        100_000, ge=1, description="structures sampled before the training, for the conditional sampler"
    )
    recalibration_batches: int = Field(
        9, ge=1, description="training batches behind the statistics of a deployed structure"
    )

    @model_validator(mode="after")
    def _multiples(self) -> "SupernetConfig":
        low, high = self.resolutions
        if not 0 < low <= high or low % self.resolution_step or high % self.resolution_step:
            raise ValueError("resolutions must be two ascending multiples of resolution_step")
        if len(self.timed_devices) > 1:
            raise ValueError("budgets in latency must be of one device; train a supernet for each")
        return self

    @property
    def timed_devices(self) -> set[str]:
        """Whose latencies the budgets are; empty without budgets in latency."""
        return {constraint.device for constraint in self.constraints if constraint.resource == "latency"}
