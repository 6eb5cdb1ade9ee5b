"""A supernet whose middle subnet is sampled at random, as in US-Net (Yu and Huang 2019) and MutualNet (Yang et al. 2020)."""

import torch
from torch import Tensor, nn

from compressbench.method import Context, Method
from compressbench.models import Network
from compressbench.models.subnets import Layout
from compressbench.supernet.config import SupernetConfig
from compressbench.supernet.training import prepare, sandwich


class UniformSubnets(Method):
    """The sandwich rule with a new structure of a uniformly sampled budget in every step; deploys random structures."""

    Config = SupernetConfig
    config: SupernetConfig

    def check(self, network: nn.Module) -> None:
        Layout(network)

    def uncompiled(self) -> str:
        return "every step trains another structure, which would be compiled anew"

    def compress(self, ctx: Context) -> Network:
        supernet = prepare(ctx, self.config)
        sampler = supernet.sampler

        def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            budget = sampler.budgets[int(torch.randint(len(sampler.budgets), ()))]
            return sandwich(supernet.model, supernet.space, sampler.draw(budget), *batch)[0]

        supernet.train(loss)
        supernet.record_shared_statistics()
        model = supernet.deploy(supernet.random_structures())
        supernet.record_mean("random", model)
        return model
