"""MinMax post-training quantization: the range of a tensor is its minimum and maximum."""

from compressbench.method import Context, Deployment, Method
from compressbench.models import Network
from compressbench.quantization.deployments import IMAGENET, eight_bits, post_training
from compressbench.quantization.post_training import (
    PostTrainingConfig,
    calibration_ranges,
    check_network,
    quantize_post_training,
)


class MinMax(Method):
    """Fold batch norms, take ranges, round; nothing is trained."""

    Config = PostTrainingConfig
    config: PostTrainingConfig

    def check(self, network: Network) -> None:
        check_network(network, self.config)

    def compress(self, ctx: Context) -> Network:
        model = ctx.dense()
        ranges = calibration_ranges(model, ctx, self.config, "minmax")
        return quantize_post_training(model, ranges, self.config, "minmax")

    @classmethod
    def deployments(cls) -> list[Deployment]:
        return [post_training(network, (4, 4)) for network in IMAGENET] + eight_bits()
