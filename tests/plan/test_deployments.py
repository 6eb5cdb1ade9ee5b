"""What a scale times of that which methods deploy."""

from pathlib import Path

import pytest

from compressbench.config.forms import Deployments
from compressbench.errors import UserError
from compressbench.plan.deployments import DeploymentPlan
from tests.conftest import ROOT


def planned(*methods: str, **wanted: object) -> DeploymentPlan:
    return DeploymentPlan(ROOT, "latency", Deployments.model_validate(wanted), methods)


def test_a_scale_without_deployments_times_nothing() -> None:
    plan = DeploymentPlan(ROOT, "smoke", None, ["optg"])
    assert plan.timed == {} and plan.files == []


def test_networks_of_the_methods_with_what_they_are_compared_with() -> None:
    plan = planned("optg", threads=(1, 2))
    assert {threads for _, threads in plan.timed} == {1}, "single weights are timed on one thread"
    found = plan.of("resnet_50", 1)
    assert set(found) == {"optg", "minmax"}
    assert all(deployment.reference for deployment in found["minmax"])


def test_blocks_are_timed_on_two_threads_too() -> None:
    assert {threads for name, threads in planned("subp", threads=(1, 2)).timed if name == "ResNet-50"} == {1, 2}


def test_one_setting_of_a_method_where_a_scale_asks_for_no_more() -> None:
    plan = planned("optg", "rigl", settings="representative")
    assert [name for name, _ in plan.timed] == ["ResNet-50"]
    assert [len(plan.of("resnet_50", 1)[method]) for method in ("optg", "rigl")] == [1, 1]
    assert plan.report == "deployments_representative"


def test_a_file_per_network_threads_and_process() -> None:
    files = planned("optg", settings="representative", processes=3).files
    folder = Path("results/latency/deployments/resnet_50/threads1")
    assert files == [folder / f"process{process}.json" for process in range(3)]


def test_what_was_fastest_is_found_once_per_network() -> None:
    plan = planned("subp", threads=(1, 2))
    assert plan.before("resnet_50", 1, 0) is None
    assert plan.before("resnet_50", 2, 0) == plan.file("resnet_50", 1, 0)
    assert plan.before("resnet_50", 2, 1) == plan.file("resnet_50", 2, 0)


def test_a_digest_stands_for_what_is_timed_on_a_network() -> None:
    def digest(*methods: str, **wanted: object) -> str:
        return planned(*methods, **wanted).digest("resnet_50", 1)

    assert digest("optg") == digest("optg", processes=4)
    assert len({digest("optg"), digest("optg", "rigl"), digest("optg", rounds=20)}) == 3


def test_a_network_on_which_nothing_is_deployed_is_named() -> None:
    with pytest.raises(UserError, match="no method deploys anything on 'resnet_5' with 1 threads here"):
        planned("optg").of("resnet_5", 1)
