"""DDTB: selection, phases, teacher loss, the run's stages, and the counts of the paper's networks."""

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compressbench import data, models, storage
from compressbench.config import Recipe
from compressbench.data.super_resolution import ImagePair, SuperResolutionData
from compressbench.layers.bounds import BoundedActivation, bounded_activations
from compressbench.layers.ranged import RangedConv2d
from compressbench.method.tasks import TASKS
from compressbench.plan import Plan, Run
from compressbench.quantization.super_resolution import (
    first_forward,
    quantize_convolutions,
    quantize_points,
    teacher_loss,
)
from compressbench.training import State, schedule_factor
from compressbench.training.distillation import attention_loss
from methods.ddtb.method import (
    DDTB,
    DDTBConfig,
    Phases,
    dynamic_intensity,
    gate_regulariser,
    parameter_groups,
    regularised_epochs,
    select_dynamic,
    set_gating,
)
from tests.conftest import ROOT
from tests.contexts.super_resolution import make_sr_context

# ---- selection


def test_dynamic_intensity_is_the_sum_of_population_variances() -> None:
    assert dynamic_intensity([1.0, 3.0], [0.0, -4.0]) == 1.0 + 4.0


@pytest.mark.parametrize(("quantizers", "ratio", "dynamic"), [(48, 0.3, 14), (145, 0.5, 72), (32, 0.1, 3)])
def test_number_of_dynamic_quantizers(quantizers: int, ratio: float, dynamic: int) -> None:
    chosen = select_dynamic({f"q{i}": 1.0 for i in range(quantizers)}, ratio)
    assert chosen == [f"q{i}" for i in range(dynamic)]


def test_the_most_dynamic_are_selected() -> None:
    assert select_dynamic({"a": 1.0, "b": 3.0, "c": 2.0, "d": 3.0}, 0.75) == ["b", "d", "c"]


# ---- phases and rates


def test_gates_are_applied_from_epoch_six_of_sixty() -> None:
    phases = Phases(60)
    epochs = [epoch + 2 for epoch in range(59)]  # calibration was epoch 1
    assert [e for e, trained in zip(epochs, range(59), strict=True) if not phases.gating(trained)] == [2, 3, 4, 5]


@pytest.mark.parametrize(("epochs", "last"), [(60, 5), (120, 10), (12, 2), (6, 2), (1, 2)])
def test_phases_keep_their_proportion(epochs: int, last: int) -> None:
    assert regularised_epochs(epochs) == last


def test_rates_halve_at_epochs_11_21_31_41_51_and_bounds_have_a_hundred_times_more() -> None:
    recipe = Recipe(epochs=60, steps_per_epoch=1000, lr=1e-4, optimizer="adam", schedule="halve", halve_every=10)
    factor = schedule_factor(recipe, 60, 1000)
    rate = {epoch: 1e-4 * factor((epoch - 2) * 1000 + 1000) for epoch in range(2, 61)}  # as in finetune
    assert rate[10] == 1e-4
    assert rate[11] == rate[20] == 5e-5
    assert rate[51] == rate[60] == 3.125e-6
    groups = parameter_groups(_quantized(2), 1e-4, DDTBConfig(bits=2).bounds_lr_ratio)
    assert groups[1]["lr"] == pytest.approx(1e-2)


def _quantized(bits: int, gates: bool = True) -> nn.Module:
    """EDSR x2 with 2 blocks of 4 channels, its quantizers and gates, bounds started; eval mode."""
    torch.manual_seed(0)
    model = models.build("edsr", blocks=2, channels=4, scale=2, mean_shift=False).eval()
    settings = {"weight_bits": bits, "input_bits": bits, "weight_range": "percentile", "percentile": 99.0}
    quantize_points(model, lambda *_: BoundedActivation(bits, gate_channels=4 if gates else None))
    quantize_convolutions(model, lambda _, layer: RangedConv2d.rebuild(layer, settings))
    set_gating(model, False)
    first_forward(model, _low(), train=True)
    return model


def _low(n: int = 3) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 255


def test_before_epoch_six_gates_only_pay_the_regulariser() -> None:
    model = _quantized(2).train()
    Phases(60).on_epoch_start(State(model, [], 59, 1, epoch=3))
    first = model(_low())
    expected = torch.stack([q.logits.square().mean() for q in bounded_activations(model).values()]).mean()
    torch.testing.assert_close(gate_regulariser(model), expected)
    for q in bounded_activations(model).values():
        nn.init.constant_(q.gate.conv2.weight, 3.0)
    assert torch.equal(model(_low()), first)


def test_from_epoch_six_gates_are_applied_without_regulariser() -> None:
    model = _quantized(2).train()
    Phases(60).on_epoch_start(State(model, [], 59, 1, epoch=4))
    first = model(_low())
    assert gate_regulariser(model) == 0.0
    for q in bounded_activations(model).values():
        nn.init.constant_(q.gate.conv2.weight, 3.0)
    assert not torch.equal(model(_low()), first)


def test_bounds_and_the_rest_are_two_groups_without_a_remainder() -> None:
    model = _quantized(2)
    rest, bounds = (group["params"] for group in parameter_groups(model, 1.0, 2.0))
    assert len(bounds) == 2 * 6
    assert len(rest) + len(bounds) == len(list(model.parameters()))


# ---- teacher


def test_loss_is_l1_and_a_thousand_times_the_attention() -> None:
    student, teacher = _quantized(2), _quantized(3)
    batch = (_low(), torch.rand(3, 3, 16, 16) * 255)
    l1 = teacher_loss(teacher, 0.0)(student, batch)
    both = teacher_loss(teacher, 1000.0)(student, batch)
    torch.testing.assert_close(both - l1, 1000 * attention_loss(student.features(batch[0]), teacher.features(batch[0])))
    assert all(not p.requires_grad for p in teacher.parameters())


# ---- stages


def _run(tmp_path: Path, **config: object) -> tuple[nn.Module, nn.Module]:
    method = DDTB(DDTBConfig.model_validate({"bits": 2} | config))
    compressed = method.compress(make_sr_context(tmp_path, "compress"))
    storage.save_model(compressed, tmp_path / "compressed")
    loaded = storage.load_model(tmp_path / "compressed")
    return compressed, method.finetune(make_sr_context(tmp_path, "finetune"), loaded)


def test_compress_and_finetune_leave_a_loadable_model(tmp_path: Path) -> None:
    compressed, tuned = _run(tmp_path)
    quantizers = bounded_activations(tuned)
    assert len(quantizers) == 6
    assert sum(q.gate is not None for q in quantizers.values()) == int(0.3 * 6)
    assert all(q.gating and q.initialised for q in quantizers.values())
    before = bounded_activations(compressed)
    assert all(q.upper.item() != before[name].upper.item() for name, q in quantizers.items())
    storage.save_model(tuned, tmp_path / "tuned")
    loaded = storage.load_model(tmp_path / "tuned")
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), tuned.state_dict().values(), strict=True)
    )
    assert all(q.gating for q in bounded_activations(loaded).values())


def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole = _run(tmp_path / "whole")

    class Killed(Exception):
        pass

    original = Phases.on_epoch_start

    def kill(self: Phases, state: State) -> None:
        original(self, state)
        if state.epoch == 1:
            raise Killed

    monkeypatch.setattr(Phases, "on_epoch_start", kill)
    with pytest.raises(Killed):
        _run(tmp_path / "killed")
    monkeypatch.setattr(Phases, "on_epoch_start", original)
    _, resumed = _run(tmp_path / "killed")
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_without_training_the_model_is_left_as_compressed(tmp_path: Path) -> None:
    compressed, tuned = _run(tmp_path, gates=False, trained=False)
    assert torch.equal(compressed(_low(1)), tuned(_low(1)))


def test_thirty_two_bits_equal_the_teacher_exactly(tmp_path: Path) -> None:
    _, tuned = _run(tmp_path, bits=32)
    assert torch.equal(tuned(_low()), make_sr_context(tmp_path, "finetune").dense()(_low()))


def test_symmetric_bounds_have_no_lower_one(tmp_path: Path) -> None:
    _, tuned = _run(tmp_path, bounds="symmetric")
    assert all(q.lower is None and q.gate is None for q in bounded_activations(tuned).values())


def test_bounds_may_start_at_plus_and_minus_ten(tmp_path: Path) -> None:
    compressed, _ = _run(tmp_path, bits=4, constant_start=10)
    assert all((q.upper.item(), q.lower.item()) == (10, -10) for q in bounded_activations(compressed).values())


@pytest.mark.parametrize("bits", [1, 5, 8])
def test_other_bit_widths_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="bits"):
        DDTBConfig.model_validate({"bits": bits})


# ---- counts


def test_recomputed_facts_meet_the_published_ones() -> None:
    rows = csv.DictReader((ROOT / "methods/ddtb/published.csv").open(encoding="utf-8"))
    counted = [r for r in rows if r["metric"] not in ("psnr", "ssim")]
    published = {(r["model"], r["setting"], r["metric"]): float(r["value"]) for r in counted}
    recomputed = {(f.model, f.setting, f.metric): f.value for f in DDTB.published_counts()}
    assert set(recomputed) == set(published)
    for key, value in recomputed.items():
        tolerance = 0 if isinstance(value, int) else 5e-4
        assert value == pytest.approx(published[key], rel=tolerance, abs=0), key


# ---- the paper's recipes


@pytest.mark.parametrize(
    ("pair", "pretrained_epochs", "pretrained_patch", "quantized_patch"),  # patches in high-resolution pixels
    [("edsr_x4", 300, 192, 192), ("edsr_x2", 300, 96, 96), ("rdn_x4", 300, 192, 96), ("srresnet_x4", 500, 192, 192)],
)
def test_recipes_of_the_paper(pair: str, pretrained_epochs: int, pretrained_patch: int, quantized_patch: int) -> None:
    run = Run("paper", "div2k", pair, "ddtb", "w2a2", 0)
    configured = Plan(ROOT, "paper", ["ddtb"]).pair(run)
    scale = configured.arguments["scale"]
    photograph = ImagePair("grey", torch.zeros(3, 60, 60), torch.zeros(3, 60 * scale, 60 * scale))
    loaded = SuperResolutionData(data.info("photographs"), scale, [photograph], [])
    for recipe, epochs, patch in (
        (configured.pretrain, pretrained_epochs, pretrained_patch),
        (configured.finetune, 60, quantized_patch),
    ):
        assert (recipe.epochs, recipe.steps_per_epoch, recipe.batch_size, recipe.lr) == (epochs, 1000, 16, 1e-4)
        high = TASKS["super_resolution"].batches(loaded, configured, recipe, 0)(0)[1]
        assert high.shape == (16, 3, patch, patch)


def test_a_recipe_without_patches_of_its_own_is_described_as_before() -> None:
    recipe = Recipe(epochs=1, lr=1)
    assert "patch" not in recipe.model_dump() and Recipe(epochs=1, lr=1, patch=24).model_dump()["patch"] == 24
