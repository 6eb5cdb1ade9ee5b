"""What a method makes of a network with random weights: its own code, with neither data nor training."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from compressbench.config import MethodConfig, Workload
from compressbench.method.base import Method
from compressbench.method.context import Context
from compressbench.models import Network


class Untrained(Context):
    """A context that has a dense network and nothing else."""

    def __init__(self, network: Network):
        content = {"architecture": network.spec.architecture, "arguments": dict(network.spec.arguments)}
        workload = Workload.model_validate(content)
        super().__init__(Path(), "compress", 0, workload, "", Path(), torch.device("cpu"))
        self.network = network

    def dense(self) -> Network:
        """The network itself."""
        return self.network


@dataclass(frozen=True)
class Applied:
    """For `Deployment.compress`: what `method.compress` makes of the dense network. For methods that need nothing else."""

    method: type[Method]
    config: MethodConfig

    def __call__(self, model: Network) -> nn.Module:
        return self.method(self.config).compress(Untrained(model))


@dataclass(frozen=True)
class Unchanged:
    """For `Deployment.compress` of methods that deploy the dense network."""

    def __call__(self, model: Network) -> nn.Module:
        return model
