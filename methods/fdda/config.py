"""FDDA's hyper-parameters."""

from typing import Literal

from pydantic import Field

from compressbench.config import MethodConfig


class FDDAConfig(MethodConfig):
    """Defaults: ImageNet. Half of the recipe's batch is real, half generated; a generator batch is one half."""

    weight_bits: int = Field(4, ge=1, le=16)
    activation_bits: int = Field(4, ge=1, le=16)
    first_last_bits: int | None = Field(
        None,
        ge=1,
        le=16,
        description="weights of first and last layer, first and last activation; default: as the others",
    )

    images_per_class: int = Field(
        1, ge=1, description="real images of the calibration set; together they are the centre"
    )
    generator_width: int = Field(128, ge=2, multiple_of=2)
    generator_lr: float = Field(1e-3, gt=0)
    generator_milestones: tuple[int, ...] = Field((100, 200, 300), description="epochs that divide its rate by 10")
    warmup_epochs: int = Field(50, ge=1, description="epochs in which only the generator learns")
    bns_weight: float = Field(0.2, ge=0, description="of L_bns, the distance to the teacher's running statistics")
    centralised_weight: float = Field(0.01, ge=0, description="of L_C, the distance to the class centre")
    distorted_weight: float = Field(0.9, ge=0, description="of L_D, the distance to the centre with noise")
    mean_noise: float = Field(0.5, ge=0, description="deviation of the noise on the means of L_D")
    variance_noise: float = Field(1.0, ge=0, description="the same on the variances")
    images: int = Field(1000, ge=1, description="generated images to store at the end of the warm-up")

    range_source: Literal["generated_early", "generated_end_of_warmup", "calibration"] = Field(
        "generated_early",
        description="images that set the activation ranges: of the generator's first steps (the authors' choice), the "
        "stored ones, or the calibration images, augmented",
    )
    range_steps: int = Field(800, ge=1, description="forward passes that move the ranges: four epochs of 200")

    finetuning: Literal["mixed", "calibration", "none"] = Field(
        "mixed", description="calibration: the real half of the batch alone; none: the quantizer alone"
    )
    temperature: float = Field(20, gt=0, description="τ of the distillation")
    alpha: float = Field(20, ge=0, description="α: weight of the distillation term, times τ²")
    crop: float = Field(0.08, gt=0, le=1, description="smallest area fraction of a box of a calibration image")
    augment_generated: bool = Field(
        False, description="one random box for the generated half, as a later version of the authors' code intends"
    )
    cosine_steps: int | None = Field(
        20_000,
        ge=1,
        description="steps in which the student's rate falls to 0; as released, it then rises again. null: the recipe's",
    )
