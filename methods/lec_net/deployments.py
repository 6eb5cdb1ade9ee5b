"""The network before and after each session: the backbone stays, the head grows."""

from dataclasses import dataclass

from torch import nn

from compressbench import models
from compressbench.method import FLOAT, Deployment
from compressbench.models import Network
from compressbench.models.published import PublishedNetwork

NODES, BASE, CLASSES, SESSIONS = 512, 100, 10, 10  # CUB-200
ARGUMENTS = {"backbone": "resnet18", "nodes": NODES, "sessions": (BASE,)}
NETWORK = PublishedNetwork("ResNet-18, growing head", "growing", ARGUMENTS, 224)


@dataclass(frozen=True)
class AfterSession:
    """The network after so many sessions, with whole expansions."""

    session: int

    def __call__(self, model: Network) -> nn.Module:
        grown = {"sessions": [BASE, *[CLASSES] * self.session], "expansions": [NODES] * self.session}
        return models.build("growing", **{**ARGUMENTS, **grown})


def deployments() -> list[Deployment]:
    """After each session of CUB-200."""
    note = "the head grows, and the backbone, which takes the time, stays"
    return [
        Deployment(NETWORK, f"after session {k}", AfterSession(k), FLOAT, representative=k == SESSIONS, note=note)
        for k in range(1, SESSIONS + 1)
    ]
