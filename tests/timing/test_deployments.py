"""What methods deploy is timed in one process, each network on the runtime where it is fastest."""

from dataclasses import dataclass, replace

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


def test_dense_and_each_deployment_once() -> None:
    known = {"one": [SPARSE], "other": [SPARSE, Deployment(SMALL, "as it is", Same())]}
    found = deployments.measure(SMALL, known, RUNTIMES, rounds=3)
    rows = [(form["methods"], form["setting"], form["runtime"]) for form in found["forms"]]
    dense = [name for methods, _, name in rows if not methods]
    assert rows[len(dense)] == (["one", "other"], "90 %", "compressbench")
    same = [form["arithmetic"] for form in found["forms"] if form["setting"] == "as it is"]
    assert same == sorted(set(same), key=["fp32", "bf16"].index), "the fastest one of every arithmetic"
    assert all(form["ms"] > 0 for form in found["forms"])
    sparse = found["forms"][len(dense)]
    assert sparse["macs"] < 0.5 * found["forms"][0]["macs"]
    assert sparse["stored_bytes"] < found["forms"][0]["stored_bytes"]


def test_dense_is_tried_on_every_runtime_and_timed_on_the_fastest() -> None:
    found = deployments.measure(SMALL, {"one": [SPARSE]}, RUNTIMES, rounds=2)
    assert {"torch_eager", "openvino"} <= {trial["runtime"] for trial in found["dense"]}
    arithmetics = [form["arithmetic"] for form in found["forms"] if not form["methods"]]
    assert "fp32" in arithmetics and len(arithmetics) == len(set(arithmetics))


def test_later_processes_repeat_the_forms_of_the_first() -> None:
    known = {"one": [SPARSE], "other": [Deployment(SMALL, "as it is", Same())]}
    first = deployments.measure(SMALL, known, RUNTIMES, rounds=2)
    second = deployments.measure(SMALL, known, RUNTIMES, rounds=2, process=1, first=first)
    names = ("methods", "setting", "runtime", "arithmetic", "params", "macs", "stored_bytes", "choices", "layers")
    assert [{n: f.get(n) for n in names} for f in second["forms"]] == [
        {n: f.get(n) for n in names} for f in first["forms"]
    ]
    assert second["dense"] == first["dense"] and (first["process"], second["process"]) == (0, 1)


def test_deployments_run_with_more_threads_in_the_forms_of_one_and_dense_is_tried_again() -> None:
    one = deployments.measure(SMALL, {"one": [SPARSE]}, ["torch_eager", "compressbench"], rounds=2)
    two = deployments.measure(SMALL, {"one": [SPARSE]}, ["torch_eager", "compressbench"], threads=2, rounds=2, like=one)
    assert [form["choices"] for form in two["forms"]] == [form["choices"] for form in one["forms"]]
    assert {trial["runtime"] for trial in two["dense"]} == {"torch_eager"} and two["threads"] == 2


def test_batches_are_compared_with_dense_on_as_many_images() -> None:
    batched = Deployment(SMALL, "as it is", Same(), batch=3)
    found = deployments.measure(SMALL, {"one": [SPARSE, batched]}, ["torch_eager", "compressbench"], rounds=2)
    assert [form["batch"] for form in found["forms"]] == [1, 3, 1, 3]


def test_a_switch_is_timed_beside_its_network() -> None:
    switched: list[int] = []
    switching = Deployment(SMALL, "as it is", Same(), switch=lambda model: lambda: switched.append(1))
    found = deployments.measure(SMALL, {"one": [switching]}, ["torch_eager"], rounds=2)
    assert [form["switch_ms"] is not None for form in found["forms"]] == [False, True]
    assert switched


def test_equal_networks_are_one_row_with_what_any_method_says_of_it() -> None:
    said = replace(SPARSE, published="1 ms on a phone", representative=True)
    (row,) = (
        form
        for form in deployments.measure(SMALL, {"a": [SPARSE], "b": [said]}, ["compressbench"], rounds=1)["forms"]
        if form["methods"]
    )
    assert (row["methods"], row["represents"], row["published"]) == (["a", "b"], ["b"], "1 ms on a phone")


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
