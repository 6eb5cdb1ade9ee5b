"""Fine-tuning only: what every class-incremental method has to beat, and what forgets at once."""

from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from compressbench.config import MethodConfig
from compressbench.data import AnySplit
from compressbench.method import Context, Method
from compressbench.models import Network
from compressbench.models.growing import GrowingClassifier, GrowingHead
from compressbench.models.structure import network_of
from compressbench.sessions import features, through_sessions


class SessionFineTuning(Method):
    """Every session adds rows to the classifier and trains on its few images, all of them in every step."""

    class Config(MethodConfig):
        """SGD without schedule or decay, on full batches."""

        trained: Literal["all", "head"] = Field("all", description="all parameters, or those outside the backbone")
        steps: int | None = Field(None, ge=0, description="of each session; default: the epochs of `recipes.finetune`")
        lr: float | None = Field(None, gt=0, description="default: that of `recipes.finetune`")
        momentum: float = Field(0.9, ge=0, lt=1)
        dampening: float = Field(0.0, ge=0, lt=1)

    config: Config

    def compress(self, ctx: Context) -> Network:
        base = network_of(ctx.dense(), GrowingClassifier)
        test = ctx.data.test
        if self.config.trained == "head":
            learn = partial(self.learn_head, ctx, base)
            return base.with_head(through_sessions(ctx, base.classifier, features(base, test), learn)[0])
        final = through_sessions(ctx, base, test, partial(self.learn_all, ctx))[0]
        return final.with_head(final.classifier)

    def learn_all(
        self, ctx: Context, network: GrowingClassifier, shots: AnySplit, session: int, draw: int
    ) -> GrowingClassifier:
        """One session; batch norms keep the statistics of the base session."""
        network.eval().classifier.grow(len(shots.labels.unique()), rows=0)
        self._train(ctx, network, shots.images_at(slice(None)).to(ctx.device), shots.labels)
        return network

    def learn_head(
        self, ctx: Context, base: GrowingClassifier, head: GrowingHead, shots: AnySplit, session: int, draw: int
    ) -> GrowingHead:
        """One session on the features of a frozen backbone."""
        head.grow(len(shots.labels.unique()), rows=0)
        self._train(ctx, head, features(base, shots), shots.labels)
        return head

    def _train(self, ctx: Context, network: nn.Module, inputs: Tensor, labels: Tensor) -> None:
        """Cross-entropy over all classes seen so far."""
        config, recipe, labels = self.config, ctx.recipes.finetune, labels.to(ctx.device)
        steps, lr = recipe.epochs if config.steps is None else config.steps, config.lr or recipe.lr
        optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=config.momentum, dampening=config.dampening)
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(network(inputs), labels).backward()
            optimizer.step()
