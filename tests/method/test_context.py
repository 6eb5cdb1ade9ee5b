"""What stages get: recalibration, budgets cut into slices, and tensors that travel with synthetic images."""

import copy
from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import pytest
import torch

from compressbench import quality, storage
from compressbench.data import Split
from compressbench.data_free.synthesis import real_images
from compressbench.errors import UserError
from compressbench.training import Hook, State
from compressbench.training.batchnorm_statistics import recompute_statistics
from compressbench.training.checkpoint import same_bits
from tests.contexts import make_context
from tests.contexts.folders import FOLDER_CLASSES, make_folder_context


@pytest.mark.parametrize(("asked", "used"), [(3, 3), (1000, 18)])
def test_recalibration_uses_training_batches_and_one_pass_at_most(
    asked: int, used: int, data_root: Path, tmp_path: Path
) -> None:
    ctx = make_context(data_root, tmp_path)  # 1,200 digits in batches of 64
    model = ctx.dense()
    batches = ctx.batches(ctx.recipes.finetune)
    expected = recompute_statistics(copy.deepcopy(model), (batches(step)[0] for step in range(used)))
    assert ctx.recalibrate(model, asked) is model
    assert same_bits(model.state_dict(), expected.state_dict())
    assert not torch.equal(model.stem.bn.running_mean, ctx.dense().stem.bn.running_mean)  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_no_record(value: float, data_root: Path, tmp_path: Path) -> None:
    ctx = make_context(data_root, tmp_path)
    ctx.record("overlap", 1)
    with pytest.raises(UserError, match=f"the stage compress came to {value} for density"):
        ctx.record("density", value)
    assert ctx.records == {"overlap": 1.0}


def test_members_of_a_cohort_have_weights_of_their_own_and_the_first_those_of_everybody(
    data_root: Path, tmp_path: Path
) -> None:
    ctx = make_context(data_root, tmp_path)
    alone, members = ctx.build().state_dict(), [ctx.build(member=m).state_dict() for m in (0, 1, 2, 1)]
    assert same_bits(alone, members[0]) and same_bits(members[1], members[3])
    weights = [state["stem.conv.weight"] for state in members[:3]]
    assert not any(torch.equal(a, b) for a, b in combinations(weights, 2))


def test_a_teacher_is_frozen_and_has_to_be_asked_for(data_root: Path, tmp_path: Path) -> None:
    ctx = make_context(data_root, tmp_path)
    with pytest.raises(UserError, match="needs_teacher: true"):
        ctx.teacher()
    ctx.teacher_folder = ctx.dense_folder
    teacher = ctx.teacher()
    assert same_bits(teacher.state_dict(), ctx.dense().state_dict())
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())


def test_a_budget_is_cut_into_slices(data_root: Path, tmp_path: Path) -> None:
    ctx = make_context(data_root, tmp_path, epochs=5)
    recipe = ctx.recipes.scratch
    assert ctx.steps(recipe) == 5 * 18
    assert ctx.sliced(recipe, None) == (5, 18)
    assert ctx.sliced(recipe, 20) == (20, Fraction(9, 2))
    with pytest.raises(UserError, match="slices is 91, more than the 90 steps"):
        ctx.sliced(recipe, 91)


@pytest.mark.parametrize("slices", [None, 4, 7, 18, 40, 90])
def test_every_step_of_a_budget_is_trained_whatever_its_slices(
    slices: int | None, data_root: Path, tmp_path: Path
) -> None:
    ctx, trained = make_context(data_root, tmp_path, epochs=5), []

    class Count(Hook):
        def on_step_end(self, state: State) -> None:
            trained.append(state.step)

    recipe = ctx.recipes.scratch
    epochs, steps = ctx.sliced(recipe, slices)
    ctx.fit(ctx.build(), recipe, hooks=[Count()], epochs=epochs, steps_per_epoch=steps)
    assert trained == list(range(90))


def test_what_synthesize_keeps_arrives_in_the_later_stages(data_root: Path, tmp_path: Path) -> None:
    ctx = make_context(data_root, tmp_path, "synthesize")
    weights = {"a.weight": torch.randn(2, 3), "b": torch.tensor(4)}
    ctx.keep("generator", weights)
    expected = {name: tensor.clone() for name, tensor in weights.items()}
    weights["b"] += 1  # trained on
    ctx.keep("generator_optimizer", {"b": torch.zeros(1)})
    with pytest.raises(UserError, match="does not list the stage synthesize"):
        ctx.kept("generator")
    ctx.synthetic_file = tmp_path / "synthetic.safetensors"
    storage.save_tensors(ctx.synthetic_file, {"images": torch.zeros(1), "labels": torch.zeros(1)} | ctx.companions)
    assert same_bits(ctx.kept("generator"), expected)
    assert ctx.kept("other") == {}


def test_a_method_may_set_arguments_of_the_architecture_and_the_weights_stay_seeded(
    data_root: Path, tmp_path: Path
) -> None:
    ctx = make_context(data_root, tmp_path)
    own = ctx.build(shortcut="conv")
    assert own.spec.arguments["shortcut"] == "conv"
    assert same_bits(own.state_dict(), ctx.build(shortcut="conv").state_dict())


def test_tensors_for_the_report_lie_beside_the_model(data_root: Path, tmp_path: Path) -> None:
    ctx = make_context(data_root, tmp_path)
    ctx.save("latent", {"counts": torch.arange(3)})
    assert storage.load_tensors(ctx.folder / "latent.safetensors")["counts"].tolist() == [0, 1, 2]


def test_a_method_gets_the_same_from_files_as_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMPRESSBENCH_DATA", raising=False)
    ctx = make_folder_context(tmp_path)
    assert (ctx.info.classes, ctx.info.image_shape) == (FOLDER_CLASSES, (3, 16, 16)) and len(ctx.held_out) == 2
    folder, model = ctx.data.test, ctx.build().eval()
    memory = Split(folder.images_at(slice(None)), folder.labels)
    assert quality.top1(model, folder) == quality.top1(model, memory)
    assert torch.equal(quality.predictions(model, folder, batch=4), quality.predictions(model, memory.images, batch=4))
    found = real_images(ctx, 5, ctx.generator("reference"))
    chosen = torch.randperm(len(ctx.data.train), generator=ctx.generator("reference"))[:5]
    assert torch.equal(found.images, ctx.data.train.images_at(slice(None))[chosen])
    assert torch.equal(found.labels, ctx.data.train.labels[chosen])


def test_workers_change_no_bit_of_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMPRESSBENCH_DATA", raising=False)
    ctx = make_folder_context(tmp_path)
    trained = []
    for workers in (0, 2):
        own = replace(ctx, workers=workers, folder=tmp_path / f"workers{workers}")
        trained.append(own.fit(own.build(), own.recipes.scratch).state_dict())
        assert own.data.train.loader.workers == workers
    assert same_bits(*trained)
