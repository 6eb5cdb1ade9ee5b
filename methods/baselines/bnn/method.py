"""Sign-STE binarisation (Hubara et al. 2016, BNN): signs in the forward pass, clipped straight-through gradients."""

import torch

from compressbench.layers.binary import SignConv2d, binarise, binary_layers
from compressbench.method import Context, Deployment, Method
from compressbench.models import Network
from compressbench.quantization.binary_training import Flips, check_network, train_binary
from compressbench.quantization.deployments import binary_networks
from compressbench.training import Hook, State


class ClipLatent(Hook):
    """Latent weights return to [-1, 1] after every step: outside of it they would receive no gradient."""

    @torch.no_grad()
    def on_step_end(self, state: State) -> None:
        for layer in binary_layers(state.model).values():
            layer.weight.clamp_(-1, 1)


class BNN(Method):
    """One run from random latent weights, in the network of ReCU (hardtanh)."""

    def check(self, network: Network) -> None:
        check_network(network)

    def compress(self, ctx: Context) -> Network:
        settings = {"scaling": "none"}
        model = binarise(ctx.build(form="recu"), lambda layer: SignConv2d.rebuild(layer, settings))
        latent = [layer.weight for layer in binary_layers(model).values()]
        known = {id(weight) for weight in latent}
        rest = [p for p in model.parameters() if id(p) not in known]
        groups = [{"params": rest}, {"params": latent, "weight_decay": 0.0}]
        return train_binary(ctx, model, groups=groups, hooks=[ClipLatent(), Flips()])

    @classmethod
    def deployments(cls) -> list[Deployment]:
        return binary_networks("recu", scaled=False)
