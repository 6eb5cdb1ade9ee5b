"""LEC-Net (arXiv 2104.02281): every session expands the nodes, and gates remove most of the expansion."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from compressbench.config import MethodConfig
from compressbench.data import AnySplit
from compressbench.method import Context, Deployment, Method, PublishedCount
from compressbench.models import Network
from compressbench.models.growing import GrowingClassifier, GrowingHead, norm
from compressbench.models.structure import network_of
from compressbench.seeding import derive_seed, generator
from compressbench.sessions import features, through_sessions
from compressbench.training import Hook, State, fit
from methods.lec_net import counts
from methods.lec_net.deployments import deployments
from methods.lec_net.losses import distillation, gate_penalty, sharpness


class StoreGates(Hook):
    """A[s] ← a_s after every step, so that the last batch counts; resets nothing else."""

    def __init__(self, session: "SessionLoss"):
        self.session = session

    def on_step_start(self, state: State) -> None:
        self.session.beta = sharpness(state.epoch)

    def on_step_end(self, state: State) -> None:
        if self.session.gate is not None:
            self.session.head.last.gate.copy_(self.session.gate)


class SessionLoss(nn.Module):
    """L = CE + λ_d KD(output[:, :C_old], old) + 0.1 max(0, mean(a_s) − r) of one session."""

    def __init__(self, head: GrowingHead, config: "LECNet.Config"):
        super().__init__()
        self.head, self.config = head, config
        self.allowed = nn.Parameter(torch.tensor(0.0), requires_grad=config.trainable_r)
        self.beta = sharpness(0)
        self.gate: Tensor | None = None

    def forward(self, x: Tensor, labels: Tensor, old: Tensor) -> Tensor:
        """Features [B, F], labels [B], old logits [B, C_old] -> scalar; leaves the gates of the batch in `gate`."""
        config = self.config
        logits, gate = self.head.self_activated(x, self.beta)
        loss = F.cross_entropy(logits, labels)
        if config.distillation_weight:
            loss = loss + config.distillation_weight * distillation(logits, old, config.temperature)
        if gate is not None:
            loss = loss + gate_penalty(gate, self.allowed, config.gate_weight)
            self.gate = gate.detach()
        return loss


class LECNet(Method):
    """Per session: expand, train with gates and distillation on cached features; at the end drop what is switched off."""

    class Config(MethodConfig):
        """Defaults: the authors' code. Epochs, batch and learning rate of a session are those of `recipes.finetune`."""

        expansion: bool = Field(True, description="U_s and its gates; without: new classes read the old nodes")
        trained: Literal["full", "part"] = Field(
            "full",
            description="full: everything outside the backbone; part: U_s and V_s, whose distillation has no gradient",
        )
        distillation_weight: float = Field(1.0, ge=0, description="λ_d")
        temperature: float = Field(2.0, gt=0, description="T of the distillation")
        gate_weight: float = Field(0.1, ge=0, description="of the penalty on the mean gate")
        trainable_r: bool = Field(False, description="let the optimiser choose r as the authors' code does: it rises")
        initialisation: Literal["random", "features"] = Field(
            "random", description="features: U_s from W, V_s from the normalised mean nodes of each class"
        )
        dampening: float = Field(0.5, ge=0, lt=1, description="of the sessions' momentum")
        form: Literal["compact", "dense"] = Field(
            "compact", description="the final network without or with closed nodes"
        )
        threshold: float = Field(0.01, ge=0, le=1, description="τ: gates below it are closed")

    config: Config

    def undivided(self) -> str:
        return "its sessions train in a loop of their own, on a few images"

    def uncompiled(self) -> str:
        return "its sessions train in a loop of their own, on a few images"

    def compress(self, ctx: Context) -> Network:
        base = network_of(ctx.dense(), GrowingClassifier)

        def learn(head: GrowingHead, shots: AnySplit, session: int, draw: int) -> GrowingHead:
            return self.learn(ctx, base, head, shots, session, draw)

        test = features(base, ctx.data.test)
        heads = through_sessions(ctx, base.classifier, test, learn, self.form)
        self._record(ctx, heads)
        return base.with_head(self.form(heads[0]))

    def learn(
        self, ctx: Context, base: GrowingClassifier, head: GrowingHead, shots: AnySplit, session: int, draw: int
    ) -> GrowingHead:
        """One session on the features of its shots, changing `head`."""
        x, labels = features(base, shots), shots.labels.to(ctx.device)
        with torch.no_grad():
            old = head.eval()(x)
        self.expand(head, x, labels)
        recipe, loss = ctx.recipes.finetune, SessionLoss(head, self.config).to(ctx.device)
        size = min(recipe.batch_size, len(x))
        steps = -(-len(x) // size)

        def batches(step: int) -> tuple[Tensor, ...]:
            epoch, part = divmod(step, steps)
            order = torch.randperm(len(x), generator=generator(ctx.seed, "session", draw, session, epoch))
            chosen = order[part * size : (part + 1) * size].to(ctx.device)
            return x[chosen], labels[chosen], old[chosen]

        optimizer = torch.optim.SGD(
            self.trained(loss), lr=recipe.lr, momentum=recipe.momentum, dampening=self.config.dampening
        )
        fit(
            loss,
            batches,
            lambda model, batch: model(*batch),
            [optimizer],
            epochs=recipe.epochs,
            steps_per_epoch=steps,
            seed=derive_seed(ctx.seed, ctx.stage, "session", draw, session),
            hooks=[StoreGates(loss)],
        )
        return head

    def expand(self, head: GrowingHead, x: Tensor, labels: Tensor) -> None:
        """U_s and V_s, from torch's generator or from what the head makes of the shots."""
        classes = labels.unique()
        new = head.grow(len(classes), head.width if self.config.expansion else 0)
        if self.config.initialisation == "features":
            with torch.no_grad():
                means = torch.stack([x[labels == label].mean(0) for label in classes])
                new.classifier.weight.copy_(norm(head.nodes(means)))
                if new.expansion is not None:
                    new.expansion.weight.copy_(head.get_parameter("nodes.weight"))

    def trained(self, loss: SessionLoss) -> list[nn.Parameter]:
        """What the optimiser moves in a session."""
        parts = loss.head.parameters() if self.config.trained == "full" else loss.head.last.parameters()
        return [*parts, *([loss.allowed] if self.config.trainable_r else [])]

    def form(self, head: GrowingHead) -> GrowingHead:
        """The network that is stored and judged."""
        return head.compact(self.config.threshold) if self.config.form == "compact" else head

    def _record(self, ctx: Context, heads: list[GrowingHead]) -> None:
        """Means over the draws: what the gates of the last session do, and how many rows a compact network keeps."""
        if not self.config.expansion:
            return
        gates = torch.stack([head.last.gate for head in heads])
        every = torch.stack([part.gate for head in heads for part in head.parts[1:]])
        tau = self.config.threshold
        ctx.record("mean_gate", gates.mean().item())
        ctx.record("decided_gates", ((gates < tau) | (gates > 1 - tau)).float().mean().item())
        ctx.record("kept_rows", (every >= tau).float().mean().item())

    @classmethod
    def published_counts(cls) -> list[PublishedCount]:
        return counts.recompute()

    @classmethod
    def deployments(cls) -> list[Deployment]:
        return deployments()
