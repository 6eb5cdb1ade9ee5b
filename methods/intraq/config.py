"""IntraQ's hyper-parameters."""

from typing import Literal

from pydantic import Field, model_validator

from compressbench.config import MethodConfig, Recipe


class IntraQConfig(MethodConfig):
    """Defaults: CIFAR-10."""

    weight_bits: int = Field(4, ge=1, le=16)
    activation_bits: int = Field(4, ge=1, le=16)
    first_last_bits: int | None = Field(
        None, ge=1, le=16, description="weights of first and last layer; default: weight_bits"
    )

    synthesis: Literal["intraq", "bn_ce", "noise", "real"] = Field(
        "intraq",
        description="bn_ce: L_BN + cross-entropy only; noise: Gaussian, labelled by the teacher; real: training images",
    )
    batches: int = Field(
        20, ge=1, description="4 groups of 5 in the paper: one loop, as the groups share their features"
    )
    batch_size: int = Field(256, ge=1, description="synthetic images per batch")
    steps: int = Field(1000, ge=1, description="optimisation steps per batch")
    synthesis_lr: float = Field(0.5, gt=0)
    patience: int = Field(
        50, ge=0, description="steps without progress before the rate drops to a tenth; do not scale with steps"
    )
    eta: float = Field(0.5, gt=0, le=1, description="η: smallest area fraction of a local-object box")
    lambda_lower: float = Field(0.05, ge=0, le=2, description="λ_l: smallest cosine distance to the class centre")
    lambda_upper: float = Field(0.8, ge=0, le=2, description="λ_u: largest")
    epsilon: float = Field(0.95, gt=0, le=1, description="ε: smallest soft target")

    calibration: Literal["generator", "synthetic"] = Field(
        "generator", description="images that set the activation ranges"
    )
    calibration_steps: int = Field(800, ge=1)
    calibration_batch: int = Field(16, ge=2)
    range_tracker: Literal["compounding", "plain"] = Field("compounding", description="compounding needs > 250 steps")

    temperature: float = Field(20, gt=0, description="τ of the distillation")
    alpha: float = Field(20, ge=0, description="α: weight of the distillation term, times τ²")
    crop: float = Field(0.5, gt=0, le=1, description="smallest area fraction of a training box")
    milestones: tuple[int, ...] | None = Field(
        (20, 40, 60),
        description="epochs (calibration's 4 counted) that divide the rate by 10; null: the recipe's schedule",
    )
    finetuning: Recipe | None = Field(None, description="replaces the pair's recipes.finetune")

    @model_validator(mode="after")
    def _ordered(self) -> "IntraQConfig":
        if self.lambda_lower > self.lambda_upper:
            raise ValueError(f"lambda_lower ({self.lambda_lower}) must not exceed lambda_upper ({self.lambda_upper})")
        return self
