"""The contract of a method, implemented by every folder under methods/."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import nn

from compressbench.config import MethodConfig, Workload
from compressbench.data import SyntheticImages
from compressbench.errors import UserError
from compressbench.method.context import Context
from compressbench.models import Network
from compressbench.models.published import PublishedNetwork


class PublishedCount(NamedTuple):
    """A number that needs no training, recomputed for comparison with the published one in published.csv."""

    model: str
    setting: str
    metric: str
    value: float


FLOAT = ("torch_eager", "torch_compiled", "onnxruntime", "openvino", "compressbench")
"""The runtimes of `Deployment`s that compute in fp32."""


@dataclass(frozen=True)
class Deployment:
    """What a method deploys on a network of its paper, with random weights: its latency needs no training.

    Attributes:
        network: the dense one, at full size.
        setting: in words; beside the method's title it names the row of a table.
        compress: a dense network with random weights, which it may change -> the compressed one; what it draws, it draws
            from torch's global generator. Methods whose `compress` is equal on a network deploy the same, which is timed once.
        runtimes: where the structure makes a difference; elsewhere it takes the time of the dense network. Empty: anywhere.
        representative: whether it stands for the method where one deployment per method is timed.
        reference: whether it is what one would deploy instead of a compressed network: the dense network at fewer bits.
        published: the time or throughput that the paper gives, with its hardware.
        note: why the time can be no other than that of the dense network, say.
        batch: images at once. The dense network, too, is timed on as many.
        threads: with how many it is timed where a scale asks for them.
        switch: the dense network -> a call that turns a deployed network into another one of the same weights, which is timed.
    """

    network: PublishedNetwork
    setting: str
    compress: Callable[[Network], nn.Module]
    runtimes: tuple[str, ...] = ()
    representative: bool = False
    reference: bool = False
    published: str = ""
    note: str = ""
    batch: int = 1
    threads: tuple[int, ...] = (1,)
    switch: Callable[[Network], Callable[[], object]] | None = None


class Method:
    """A compression method. Implement the stage functions that config.yaml lists under `stages`, and no others.

    Each stage gets a `Context` (data, dense model, budgets, shared training loop, seed) and returns its result;
    the framework stores it, records it and hands it to the next stage. A stage must be a pure function of
    (context, configuration): all randomness comes from `ctx.generator(purpose)` or from the seeded loop.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig

    def __init__(self, config: MethodConfig):
        self.config = config

    def check(self, network: Network) -> None:
        """UserError where this configuration cannot be applied to `network`, so that it is known before anything runs.

        network: the pair's, at full size and on the meta device: shapes without numbers.
        """

    def undivided(self) -> str:
        """Why the batches of this configuration cannot be divided (`accumulate`, `processes`); empty where they can.

        A training can, when its loss is a mean over the batch and reads nothing from the network but weights and buffers.
        """
        return ""

    def uncompiled(self) -> str:
        """Why the training of this configuration cannot be compiled (`compile`); empty where it can."""
        return ""

    def check_recipes(self, pair: Workload) -> None:
        """UserError where `pair` trains in a way that this configuration cannot."""
        recipes = [recipe for recipe in (pair.scratch, pair.finetune) if recipe is not None]
        divided = {"processes": pair.processes > 1, "accumulate": any(recipe.accumulate > 1 for recipe in recipes)}
        for key, used in divided.items():
            if used and (reason := self.undivided()):
                raise UserError(f"{key}: the batches of this method cannot be divided: {reason}; leave it out.")
        if any(recipe.compile for recipe in recipes) and (reason := self.uncompiled()):
            raise UserError(f"compile: this method cannot be compiled: {reason}; leave it out.")

    def synthesize(self, ctx: Context) -> SyntheticImages:
        """Images for methods without data. `ctx.dense()` is the teacher; `ctx.keep` leaves tensors to the later stages."""
        raise self._lacks("synthesize")

    def compress(self, ctx: Context) -> Network:
        """The compressed model, trained or not, from `ctx.dense()`, `ctx.build()` or `ctx.finished()`."""
        raise self._lacks("compress")

    def finetune(self, ctx: Context, model: Network) -> Network:
        """`model` (the result of `compress`, as stored) after fine-tuning; may be changed in place."""
        raise self._lacks("finetune")

    def _lacks(self, stage: str) -> UserError:
        name = type(self).__name__
        return UserError(f"{name} has no function {stage}; write it, or take it out of `stages` in its config.yaml.")

    @classmethod
    def published_counts(cls) -> list[PublishedCount]:
        """Numbers of published.csv that follow from the architecture alone, recomputed."""
        return []

    @classmethod
    def deployments(cls) -> list[Deployment]:
        """What it deploys on the networks of its paper, which is timed with random weights (config/latency.yaml)."""
        return []
