"""Post-training quantization that clips: percentile ranges, or the shrunken MinMax range of least squared error."""

from typing import Literal

from compressbench.method import Context, Deployment, Method
from compressbench.models import Network
from compressbench.quantization.deployments import IMAGENET, post_training
from compressbench.quantization.post_training import (
    PostTrainingConfig,
    calibration_ranges,
    check_network,
    quantize_post_training,
)


class Clipping(Method):
    """The grids of MinMax; only the ranges differ."""

    class Config(PostTrainingConfig):
        """The rule for ranges beside the options of every post-training quantization."""

        rule: Literal["percentile", "mse"] = "mse"

    config: Config

    def check(self, network: Network) -> None:
        check_network(network, self.config)

    def compress(self, ctx: Context) -> Network:
        model = ctx.dense()
        ranges = calibration_ranges(model, ctx, self.config, self.config.rule)
        return quantize_post_training(model, ranges, self.config, self.config.rule)

    @classmethod
    def deployments(cls) -> list[Deployment]:
        return [post_training(network, (4, 4), "percentile") for network in IMAGENET]
