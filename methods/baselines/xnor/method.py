"""XNOR-Net's weights (Rastegari et al. 2016): signs times the mean magnitude of each filter."""

from pydantic import Field

from compressbench.config import MethodConfig
from compressbench.layers.binary import ScaleGradient, SignConv2d, binarise
from compressbench.method import Context, Deployment, Method
from compressbench.models import Network
from compressbench.quantization.binary_training import Flips, check_network, train_binary
from compressbench.quantization.deployments import binary_networks


class XNOR(Method):
    """One run from random latent weights, in the network of ReCU (hardtanh)."""

    class Config(MethodConfig):
        """How the scale is differentiated."""

        scale_gradient: ScaleGradient = Field("exact", description="chain rule; as the paper prints it; or not at all")

    config: Config

    def check(self, network: Network) -> None:
        check_network(network)

    def compress(self, ctx: Context) -> Network:
        settings = {"scaling": "mean", "scale_gradient": self.config.scale_gradient}
        model = binarise(ctx.build(form="recu"), lambda layer: SignConv2d.rebuild(layer, settings))
        return train_binary(ctx, model, hooks=[Flips()])

    @classmethod
    def deployments(cls) -> list[Deployment]:
        return binary_networks("recu")
