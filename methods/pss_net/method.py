"""PSS-Net (Chen et al. 2023): a supernet that trains the best structures of every budget more often than others."""

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from compressbench.method import Context, Deployment, Method, PublishedCount
from compressbench.models import Network
from compressbench.models.subnets import Layout, Subnet
from compressbench.supernet.config import SupernetConfig
from compressbench.supernet.latency_table import LatencyTable, measured_table
from compressbench.supernet.space import Budget
from compressbench.supernet.training import Supernet, prepare, sandwich
from compressbench.training import Hook, State
from methods.pss_net.deployments import deployments
from methods.pss_net.pools import Pools, annealed

Choice = Literal["best", "worst", "random"]


class PSSNetConfig(SupernetConfig):
    """Hyper-parameters of the authors' code."""

    pool_size: int = Field(50, ge=1, description="M: structures kept for every budget")
    score_decay: float = Field(0.9, ge=0, lt=1, description="λ: of a score when its structure is trained again")
    exploration: tuple[float, float] = Field(
        (1.0, 0.01), description="p: probability of a uniformly sampled structure; start, end"
    )
    temperature: tuple[float, float] = Field((1.0, 0.01), description="t: of the softmax over scores; start, end")
    deployed: Choice = Field("best", description="which structure of a pool is deployed; random: a fresh one")
    latency_table: Path | None = Field(
        None, description="file of block latencies, from the project's folder; default: measured before the training"
    )

    @model_validator(mode="after")
    def _comparable(self) -> "PSSNetConfig":
        if "gpu" in self.timed_devices and self.latency_table is None:
            raise ValueError(
                "the budgets are microseconds of a GPU, and the table that is measured here is of the CPU: no structure "
                "would meet them; name a file of block latencies of that GPU as latency_table, or use budgets of the CPU"
            )
        return self


class Prioritized(nn.Module):
    """The supernet in training, and its pools."""

    def __init__(self, supernet: Supernet, config: PSSNetConfig):
        super().__init__()
        self.supernet: Supernet = supernet
        self.model = supernet.model
        count, stages = len(supernet.sampler.budgets), supernet.space.layout.stages
        self.pools = Pools(count, config.pool_size, stages, config.score_decay)
        self.config = config
        self.explore, self.temperature = config.exploration[0], config.temperature[0]

    def loss(self, _: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """One iteration: draw a pool and a structure, score it by minus its loss, and learn by the sandwich rule."""
        budgets = self.supernet.sampler.budgets
        pool = int(torch.randint(len(budgets), ()))  # a resource is drawn in proportion to its pools, then one of them
        subnet = self.draw(pool, budgets[pool])
        loss, logits = sandwich(self.model, self.supernet.space, subnet, *batch)
        self.pools.update(pool, subnet, -F.cross_entropy(logits.detach(), batch[1]).item())
        return loss

    def draw(self, pool: int, budget: Budget) -> Subnet:
        """A fresh structure with probability p, and always while the pool is not full; else one of the pool."""
        if torch.rand(()) < self.explore or not self.pools.is_full(pool):
            return self.supernet.sampler.draw(budget)
        return self.pools.draw(pool, self.temperature)


class Annealing(Hook):
    """p and t fall geometrically with the epochs."""

    def __init__(self, trained: Prioritized):
        self.trained = trained

    def on_epoch_start(self, state: State) -> None:
        trained, when = self.trained, (state.epoch, state.epochs)
        trained.explore = annealed(*trained.config.exploration, *when)
        trained.temperature = annealed(*trained.config.temperature, *when)


class PSSNet(Method):
    """Prioritized subnet sampling."""

    Config = PSSNetConfig
    config: PSSNetConfig

    def check(self, network: nn.Module) -> None:
        Layout(network)

    def undivided(self) -> str:
        return "its pools score a structure by the loss of the whole batch"

    def uncompiled(self) -> str:
        return "every step trains another structure, which would be compiled anew"

    def compress(self, ctx: Context) -> Network:
        supernet = prepare(ctx, self.config, self._table(ctx))
        trained = Prioritized(supernet, self.config).to(ctx.device)
        supernet.train(trained.loss, trained, hooks=[Annealing(trained)])
        supernet.record_shared_statistics()
        pools, budgets = trained.pools, supernet.sampler.budgets
        filled = {budget: pool for pool, budget in enumerate(budgets) if pools.sizes[pool]}
        choices: dict[str, dict[Budget, Subnet]] = {
            "best": {budget: pools.best(pool) for budget, pool in filled.items()},
            "worst": {budget: pools.worst(pool) for budget, pool in filled.items()},
            "random": {budget: subnet for budget, subnet in supernet.random_structures().items() if budget in filled},
        }
        models = {name: supernet.deploy(chosen) for name, chosen in choices.items()}
        for name, model in models.items():
            supernet.record_mean(name, model)
        return models[self.config.deployed]

    def _table(self, ctx: Context) -> LatencyTable | None:
        """The latency of every block of the space, where a budget is in latency."""
        if not self.config.timed_devices:
            return None
        if self.config.latency_table is not None:
            return LatencyTable.load(ctx.root / self.config.latency_table)
        return measured_table(Layout(ctx.build()), self.config)

    @classmethod
    def published_counts(cls) -> list[PublishedCount]:
        from methods.pss_net.counts import recompute

        return recompute()

    @classmethod
    def deployments(cls) -> list[Deployment]:
        return deployments()
