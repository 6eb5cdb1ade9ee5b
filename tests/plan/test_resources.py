"""What a job asks for follows its workload: the data set, the network, the recipe, and where it computes."""

from dataclasses import replace
from typing import Any

import pytest

from compressbench import data
from compressbench.config import Latency, Recipe, Workload
from compressbench.plan import Job, Run, resources
from compressbench.plan.resources import LONGEST, SHORTEST

RUN = Run("any", "cifar10", "resnet20", "any", "any", 0)
RECIPE = Recipe(epochs=100, batch_size=128, lr=0.1)
RESNET: dict[str, Any] = {"architecture": "resnet_cifar", "arguments": {"blocks": [3, 3, 3]}}


def pretraining(**changes: Any) -> Job:
    fields: dict[str, Any] = {"device": "cuda", "data": "cifar10"} | changes
    recipe = fields.pop("recipe", RECIPE)
    return Job(run=RUN, stage="pretrain", workload=Workload(**RESNET, pretrain=recipe), **fields)


def on_imagenet(job: Job) -> Job:
    return replace(job, run=replace(RUN, dataset="imagenet"))


def test_a_stage_asks_for_a_gpu_where_it_computes_on_one() -> None:
    assert resources.of(pretraining()).gpus == 1
    assert resources.of(pretraining(device="auto")).gpus == 1
    assert resources.of(pretraining(device="cpu")).gpus == 0


def test_the_time_follows_the_recipe_the_network_and_where_it_computes() -> None:
    short, long = (
        resources.of(pretraining(recipe=RECIPE.model_copy(update={"epochs": n}))).minutes for n in (100, 300)
    )
    assert long == pytest.approx(3 * short, rel=0.1)
    assert resources.of(pretraining(device="cpu")).minutes > short
    assert resources.of(on_imagenet(pretraining())).minutes == LONGEST, "what takes longer is resumed"


def test_the_memory_follows_the_data_set_and_on_a_processor_the_batch() -> None:
    fashion = replace(pretraining(), run=replace(RUN, dataset="fashion_mnist"))
    more = data.info("cifar10").memory_mb - data.info("fashion_mnist").memory_mb  # type: ignore[operator]
    assert resources.of(pretraining()).memory_mb - resources.of(fashion).memory_mb == more > 0
    larger = pretraining(device="cpu", recipe=RECIPE.model_copy(update={"batch_size": 1024}))
    assert resources.of(larger).memory_mb > resources.of(pretraining(device="cpu")).memory_mb + 500


def test_reading_images_from_files_for_a_gpu_takes_several_threads() -> None:
    assert resources.of(on_imagenet(pretraining())).threads == resources.LOADERS
    assert resources.of(on_imagenet(pretraining(device="cpu"))).threads == 1
    assert resources.of(pretraining()).threads == 1


def test_what_starts_from_a_finished_network_trains_nothing() -> None:
    trained = Job(run=RUN, stage="compress", workload=Workload(**RESNET, scratch=RECIPE), device="cpu", data="cifar10")
    rounded = replace(trained, inputs={"finished": trained})
    assert resources.of(rounded).minutes == SHORTEST < resources.of(trained).minutes


def test_what_trains_nothing_is_quick() -> None:
    compress = Job(
        run=RUN, stage="compress", workload=Workload(**RESNET, finetune=RECIPE), device="cpu", data="cifar10",
        inputs={"dense": pretraining()},
    )  # fmt: skip
    instant = resources.of(replace(compress, instant=True))
    assert instant.is_quick and instant.minutes == SHORTEST
    assert not resources.of(compress).is_quick
    assert instant.memory_mb < resources.of(compress).memory_mb


def test_the_time_of_a_latency_follows_its_rounds() -> None:
    job = Job(
        run=RUN, stage="latency", workload=Workload(**RESNET), device="cpu", data="cifar10",
        latency=Latency(runtimes=("torch_eager",)), batches=(512,),
    )  # fmt: skip
    more = replace(job, latency=Latency(rounds=5000, runtimes=("torch_eager",)))
    assert resources.of(job).minutes < resources.of(more).minutes
    assert resources.of(job).gpus == 0


def test_the_next_attempt_asks_for_more() -> None:
    first, second = (resources.of(pretraining(), attempt) for attempt in (1, 2))
    assert second.memory_mb == pytest.approx(2 * first.memory_mb, abs=100)
    assert second.minutes == pytest.approx(2 * first.minutes, abs=1)
    assert resources.of(on_imagenet(pretraining()), 3).minutes == LONGEST


def test_a_network_that_cannot_run_without_numbers_has_an_estimate_all_the_same(monkeypatch) -> None:
    from compressbench import accounting

    def refuse(*_: Any) -> None:
        raise RuntimeError("no kernel for meta tensors")

    monkeypatch.setattr(accounting, "layer_table", refuse)
    resources._counted.cache_clear()
    try:
        assert resources.of(pretraining()).minutes > SHORTEST
    finally:
        resources._counted.cache_clear()
