"""What methods deploy is timed in one process, each network on the runtime where it is fastest."""

from dataclasses import dataclass

import torch
from torch import nn

from compressbench.layers.masked import masked_layers
from compressbench.method import Deployment
from compressbench.models import Network
from compressbench.models.published import PublishedNetwork
from compressbench.pruning.deployments import OWN, RandomWeights
from compressbench.timing import deployments

SMALL = PublishedNetwork("Small", "resnet_cifar", {"blocks": (1, 1), "widths": (8, 16)}, 16)
SPARSE = Deployment(SMALL, "90 %", RandomWeights(0.9, "erk"), OWN)
RUNTIMES = ["torch_eager", "openvino", "openvino_bf16", "compressbench"]


@dataclass(frozen=True)
class Same:
    """Deploys the dense network, and keeps what it was given."""

    seen: tuple[()] = ()

    def __call__(self, model: Network) -> nn.Module:
        return model


def test_dense_on_every_runtime_and_each_deployment_once() -> None:
    known = {"one": [SPARSE], "other": [SPARSE, Deployment(SMALL, "as it is", Same())]}
    found = deployments.measure(SMALL, known, RUNTIMES, rounds=3)
    rows = [(form["methods"], form["setting"], form["runtime"]) for form in found["forms"]]
    dense = [name for methods, _, name in rows if not methods]
    assert {"torch_eager", "openvino"} <= set(dense), "our own has nothing to skip, and not every processor has bf16"
    assert rows[len(dense)] == (["one", "other"], "90 %", "compressbench")
    same = [form["arithmetic"] for form in found["forms"] if form["setting"] == "as it is"]
    assert same == sorted(set(same), key=["fp32", "bf16"].index), "the fastest one of every arithmetic"
    assert all(form["ms"] > 0 for form in found["forms"])
    sparse = found["forms"][len(dense)]
    assert sparse["macs"] < 0.5 * found["forms"][0]["macs"]
    assert sparse["stored_bytes"] < found["forms"][0]["stored_bytes"]


def test_every_process_times_the_same_networks() -> None:
    def masks() -> list[torch.Tensor]:
        seen: list[nn.Module] = []

        def watched(model: Network) -> nn.Module:
            seen.append(RandomWeights(0.9, "uniform")(model))
            return seen[-1]

        known = {"one": [Deployment(SMALL, "90 %", watched, OWN)]}
        deployments.measure(SMALL, known, ["compressbench"], rounds=1, process=len(seen))
        return [layer.mask for layer in masked_layers(seen[0]).values()]

    assert all(torch.equal(a, b) for a, b in zip(masks(), masks(), strict=True))
