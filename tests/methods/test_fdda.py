"""FDDA against the numbers of its definition. Quantizer and range tracker: tests/layers."""

import csv
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from compressbench import accounting, models, storage
from compressbench.config import Pair, discovery
from compressbench.data import SyntheticImages
from compressbench.data.classification import ClassificationData, Split
from compressbench.data.datasets import info
from compressbench.data_free import synthesis
from compressbench.data_free.generator import NOISE, Generator
from compressbench.data_free.norm_statistics import NormInputs
from compressbench.errors import UserError
from compressbench.layers.quantized import QuantConv2d, QuantizedActivation, QuantLinear, insert_quantizers
from compressbench.method import Context, loading
from compressbench.plan import Plan
from compressbench.training.checkpoint import Checkpoint, same_bits
from compressbench.training.distillation import distillation_loss
from methods.fdda import counts
from methods.fdda import method as fdda
from methods.fdda.centres import (
    ClassCentres,
    Statistics,
    calibration_indices,
    class_centres,
    distance,
    distorted,
    first_aligned_layer,
    layer_weights,
)
from methods.fdda.generation import Draw, Draws, Generated, GeneratorLoss, Trainee, sample, student_batch
from methods.fdda.method import FDDA
from tests.conftest import ROOT
from tests.contexts import full_size_context

RESNET8 = {"in_channels": 1, "blocks": [1, 1, 1], "widths": [4, 8, 8], "stem_stride": 2, "shortcut": "conv"}
SMALL = {"generator_width": 4, "warmup_epochs": 2, "images": 20, "range_steps": 4, "crop": 0.5, "cosine_steps": None}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_teacher() -> tuple[nn.Module, Split]:
    """A network that has learned ten noisy patterns of 16 x 16 pixels."""
    torch.manual_seed(0)
    model = models.build("resnet_cifar", **RESNET8)
    labels = torch.arange(200) % 10
    images = torch.randn(10, 1, 16, 16)[labels] + 0.3 * torch.randn(200, 1, 16, 16)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(25):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.eval().requires_grad_(False), Split(images, labels)


TEACHER, REAL = small_teacher()


def config(**changes: object) -> FDDA.Config:
    return FDDA.Config.model_validate(SMALL | changes)


def context(folder: Path, stage: str, shared: Path | None = None, **recipe: object) -> Context:
    """A context of two epochs of three steps; its dense model and synthetic images lie in `shared`."""
    chosen = {
        "epochs": 2, "steps_per_epoch": 3, "batch_size": 16, "lr": 1e-4, "nesterov": True, "weight_decay": 1e-4,
    } | recipe  # fmt: skip
    pair = Pair.model_validate(
        {
            "architecture": "resnet_cifar",
            "arguments": RESNET8,
            "scratch": chosen,
            "pretrain": chosen,
            "finetune": chosen,
        }
    )
    ctx = Context(folder, stage, 0, pair, "digits", folder / stage, torch.device("cpu"))
    ctx.dense_folder, ctx.synthetic_file = (shared or folder) / "dense", None
    if stage != "synthesize":
        ctx.synthetic_file = (shared or folder) / "synthesize" / "synthetic.safetensors"
    ctx.__dict__["data"] = ClassificationData(info("digits"), REAL, REAL, REAL)
    if not ctx.dense_folder.exists():
        storage.save_model(TEACHER, ctx.dense_folder)
    return ctx


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a synthesize stage, beside its dense model."""
    folder = tmp_path_factory.mktemp("fdda")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthesis, "write_preview", lambda *_: None)
        ctx = context(folder, "synthesize")
        synthesis.save_synthetic(FDDA(config()).synthesize(ctx), ctx)
    return folder


def centres_of(indices: Tensor, teacher: nn.Module = TEACHER) -> ClassCentres:
    return class_centres(teacher, SyntheticImages(REAL.images[indices], REAL.labels[indices]), 10)


CENTRES = centres_of(calibration_indices(REAL.labels, 10, 1, seeded()))


def draw(label: int = 0, seed: int = 0, batch: int = 8) -> Draw:
    random, channels = seeded(seed), sum(CENTRES.channels)
    noise, class_noise = torch.randn(2, batch, NOISE, generator=random)
    labels = torch.randint(10, (batch,), generator=random)
    return Draw(noise, labels, class_noise, torch.tensor(label), torch.randn(2, channels, generator=random))


# ---- counts


def test_counts_of_the_published_networks() -> None:
    with (ROOT / "methods/fdda/published.csv").open(encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["metric"] != "top1"]
    found = {(f.model, f.setting, f.metric): f.value for f in FDDA.published_counts()}
    assert len({(r["model"], r["setting"], r["metric"]) for r in rows}) == len(rows) > 60
    for r in rows:
        digits = len(r["value"].split("e")[0].split(".")[1]) if "." in r["value"] else 0
        unit = 10.0 ** (int(r["value"].split("e")[1]) if "e" in r["value"] else 0)
        value = found[r["model"], r["setting"], r["metric"]] / unit
        assert value == pytest.approx(float(r["value"]) / unit, abs=0.5001 * 10**-digits), r


def test_desk_network() -> None:
    model = models.build("resnet_cifar", blocks=(1, 1, 1), in_channels=1, shortcut="conv")
    counts = accounting.account(model, (1, 28, 28))
    assert (counts.params, counts.weights, counts.macs) == (77_754, 77_072, 9_345_920)
    student = insert_quantizers(model, 4, 4)
    kinds = [type(m) for m in student.modules()]
    assert kinds.count(QuantConv2d) + kinds.count(QuantLinear) == 10
    assert (kinds.count(QuantizedActivation), kinds.count(nn.BatchNorm2d)) == (7, 9)


@pytest.mark.parametrize("name", ["ResNet-18", "MobileNetV1", "MobileNetV2"])
def test_eight_bits_at_the_ends_and_nowhere_else(name: str) -> None:
    network = next(p for p in counts.PUBLISHED if p.name == name)
    student = insert_quantizers(network.build(), 4, 4, end_weight_bits=8, end_activation_bits=8)
    weights = [m.weight_bits for m in student.modules() if isinstance(m, QuantConv2d | QuantLinear)]
    activations = [m.bits for m in student.modules() if isinstance(m, QuantizedActivation)]
    layers, quantizers = {"ResNet-18": (21, 17), "MobileNetV1": (28, 27), "MobileNetV2": (53, 35)}[name]
    assert weights == [8, *[4] * (layers - 2), 8]
    assert activations == [8, *[4] * (quantizers - 2), 8]


# ---- centres


@pytest.mark.parametrize(("layers", "first"), [(6, 1), (9, 3), (20, 8), (21, 9), (27, 12), (52, 24), (53, 25)])
def test_first_aligned_layer(layers: int, first: int) -> None:
    assert first_aligned_layer(layers) == first


def test_alignment_of_resnet18_starts_in_the_second_unit_of_its_second_stage() -> None:
    model, seen = counts.PUBLISHED[0].build().eval(), []
    names = {m: name for name, m in model.named_modules()}
    for norm in [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]:
        norm.register_forward_pre_hook(lambda module, _: seen.append(names[module]))
    model(torch.empty(1, 3, 64, 64, device="meta"))
    convolutions = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    assert len(seen) == 20
    unit = seen[first_aligned_layer(20)].rsplit(".", 1)[0]
    assert model.get_submodule(seen[8]).num_features == 128 and model.get_submodule(seen[9]).num_features == 128
    assert not any("shortcut" in name for name in convolutions if name.startswith(unit)), "the unit without a shortcut"


def test_a_centre_is_the_spatial_statistics_of_one_image() -> None:
    inputs: list[Tensor] = []
    norms = [m for m in TEACHER.modules() if isinstance(m, nn.BatchNorm2d)]
    handles = [m.register_forward_pre_hook(lambda _, x: inputs.append(x[0])) for m in norms]
    index = calibration_indices(REAL.labels, 10, 1, seeded())
    TEACHER(REAL.images[index[3:4]])
    for handle in handles:
        handle.remove()
    centre = CENTRES.centre(3)
    torch.testing.assert_close(centre.means, torch.cat([x.mean((0, 2, 3)) for x in inputs]))
    torch.testing.assert_close(centre.variances, torch.cat([x.var((0, 2, 3), correction=0) for x in inputs]))
    assert CENTRES.channels == tuple(x.shape[1] for x in inputs) and len(CENTRES.channels) == 9


def test_centres_repeat_to_the_bit_and_do_not_depend_on_other_classes() -> None:
    index = calibration_indices(REAL.labels, 10, 1, seeded())
    assert REAL.labels[index].tolist() == list(range(10))
    again = centres_of(index)
    assert torch.equal(again.means, CENTRES.means) and torch.equal(again.variances, CENTRES.variances)
    other = calibration_indices(REAL.labels, 10, 1, seeded(1))
    assert not torch.equal(other, index)
    changed = centres_of(torch.cat([index[:1], other[1:]]))
    assert torch.equal(changed.means[0], CENTRES.means[0]) and torch.equal(changed.variances[0], CENTRES.variances[0])


def test_the_teacher_recognises_its_calibration_images_and_none_with_wrong_labels() -> None:
    index = calibration_indices(REAL.labels, 10, 1, seeded())
    assert CENTRES.recognised.sum() >= 8
    wrong = SyntheticImages(REAL.images[index], (REAL.labels[index] + 1) % 10)
    with pytest.raises(UserError, match="recognises none"):
        class_centres(TEACHER, wrong, 10)


def test_missing_images_and_centres_are_refused() -> None:
    with pytest.raises(UserError, match=r"class 10 has 0 training images"):
        calibration_indices(REAL.labels, 11, 1, seeded())
    with pytest.raises(UserError, match="class 0 has 20 training images, the calibration set needs 21"):
        calibration_indices(REAL.labels, 10, 21, seeded())
    few = torch.arange(5)  # classes 0 to 4
    with pytest.raises(UserError, match="class 5 has no calibration image"):
        centres_of(few)


# ---- losses


def loss_with(centres: ClassCentres = CENTRES, teacher: nn.Module = TEACHER, **changes: object) -> GeneratorLoss:
    return GeneratorLoss(teacher, centres, config(**changes))


def test_a_weighted_sum_is_a_mean_over_layers_of_means_over_channels() -> None:
    random = seeded()
    a, b = (Statistics(*torch.rand(2, 7, generator=random)) for _ in range(2))
    mse = nn.functional.mse_loss
    layers = [slice(0, 2), slice(2, 5), slice(5, 7)]
    terms = [mse(a.means[part], b.means[part]) + mse(a.variances[part], b.variances[part]) for part in layers]
    assert distance(a, b, layer_weights([2, 3, 2])).item() == pytest.approx((sum(terms) / 3).item())
    assert distance(a, b, layer_weights([2, 3, 2], 1)).item() == pytest.approx(((terms[1] + terms[2]) / 2).item())


def test_centralised_loss_vanishes_at_the_centre_and_the_distorted_one_is_a_quarter_and_one_more() -> None:
    channels, random = 120, seeded()
    weights = layer_weights([40, 80])
    centre = Statistics(*torch.randn(2, channels, generator=random))
    for offset in (0.0, 0.3):
        batch = Statistics(*((part + offset).requires_grad_() for part in centre))
        loss = distance(batch, centre, weights)
        loss.backward()
        assert loss.item() == pytest.approx(2 * offset**2, abs=1e-6)
        if not offset:
            assert all((part.grad == 0).all() for part in batch)
        noise = torch.randn(2000, 2, channels, generator=random)
        drawn = torch.stack([distance(batch, distorted(centre, n, 0.5, 1.0), weights).detach() for n in noise])
        assert (drawn.mean() - loss.detach()).item() == pytest.approx(1.25, rel=0.03)


def test_centres_of_shallow_layers_are_no_targets() -> None:
    shallow = sum(CENTRES.channels[:3])
    batch = Statistics(*torch.rand(2, sum(CENTRES.channels), generator=seeded()))
    label = int(CENTRES.recognised.nonzero()[0])
    moved = CENTRES._replace(means=CENTRES.means.clone(), variances=CENTRES.variances.clone())
    moved.means[:, :shallow] += 5
    moved.variances[:, :shallow] += 5
    before = loss_with().alignment(batch, draw(label))
    assert torch.equal(loss_with(moved).alignment(batch, draw(label)), before)
    moved.means[:, shallow] += 5
    assert loss_with(moved).alignment(batch, draw(label)) != before


def in_double() -> tuple[nn.Module, ClassCentres, Generator]:
    teacher = models.build("resnet_cifar", **RESNET8)
    teacher.load_state_dict(TEACHER.state_dict())
    centres = CENTRES._replace(means=CENTRES.means.double(), variances=CENTRES.variances.double())
    torch.manual_seed(0)
    return teacher.double().eval().requires_grad_(False), centres, Generator(10, 1, 16, True, 4).double().train()


def test_generator_loss_is_the_weighted_sum_of_its_five_terms() -> None:
    teacher, centres, generator = in_double()
    label = int(centres.recognised.nonzero()[0])
    drawn = Draw(*(part.double() if part.is_floating_point() else part for part in draw(label)))
    labels, mse, ce = drawn.label.expand(8), nn.functional.mse_loss, nn.functional.cross_entropy
    with NormInputs(teacher) as statistics:
        mixed = ce(teacher(generator(drawn.noise, drawn.labels)), drawn.labels)
        terms = [mse(m, n.running_mean) + mse(v, n.running_var) for n, m, v in statistics.take()]  # type: ignore[arg-type]
        one = ce(teacher(generator(drawn.class_noise, labels)), labels)
        aligned = [(m, v) for _, m, v in statistics.take()][3:]

    def split(vector: Tensor) -> list[Tensor]:
        return list(vector.split(centres.channels))[3:]

    means, variances, xi, xi2 = map(split, (*centres.centre(label), *drawn.distortion))
    centralised = sum(mse(m, a) + mse(v, b) for (m, v), a, b in zip(aligned, means, variances, strict=True)) / 6
    noisy = [(a + 0.5 * n, b + n2) for a, b, n, n2 in zip(means, variances, xi, xi2, strict=True)]
    distorted_loss = sum(mse(m, a) + mse(v, b) for (m, v), (a, b) in zip(aligned, noisy, strict=True)) / 6
    bns = sum(terms) / 9
    expected = 0.5 * mixed + 0.2 * bns + 0.5 * one + 0.9 * distorted_loss + 0.01 * centralised
    assert loss_with(centres, teacher)(generator, drawn).loss.item() == pytest.approx(expected.item(), rel=1e-6)
    off = loss_with(centres, teacher, distorted_weight=0, centralised_weight=0)(generator, drawn)
    assert off.loss.item() == pytest.approx((mixed + 0.2 * bns).item(), rel=1e-6)


def test_where_the_teacher_errs_the_target_is_noise_in_all_layers() -> None:
    unknown = CENTRES._replace(recognised=torch.zeros(10, dtype=torch.bool))
    nothing = Statistics(*torch.zeros(2, sum(CENTRES.channels)))
    losses = torch.stack([loss_with(unknown).alignment(nothing, draw(seed=s)) for s in range(400)])
    assert losses.mean().item() == pytest.approx(0.9 * 2 * (1 + 1), rel=0.03)
    without = loss_with(unknown, centralised_weight=0).alignment(nothing, draw())
    assert torch.equal(without, losses[0]), "L_C = 0"


def test_all_classes_are_drawn_in_five_epochs_and_only_recognised_ones_after_them() -> None:
    known = torch.zeros(10, dtype=torch.bool)
    known[[2, 7]] = True
    draws = Draws(0, 4, steps_per_epoch=20, centres=CENTRES._replace(recognised=known))
    assert {int(draws(step).label) for step in range(100)} == set(range(10))
    assert {int(draws(step).label) for step in range(100, 150)} == {2, 7}
    one, again, next_ = draws(5), draws(5), draws(6)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(torch.equal(one[i], next_[i]) for i in (0, 2, 4)), "noise is fresh at every step"
    assert not torch.equal(one.noise, one.class_noise) and not torch.equal(*one.distortion)


def test_distillation() -> None:
    student = torch.tensor([[2.0, 0.0, -1.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[1.0, 1.0, -1.0]], dtype=torch.float64)
    loss = distillation_loss(student, teacher, torch.tensor([0]), FDDA.Config().temperature, FDDA.Config().alpha)
    loss.backward()
    assert loss.item() == pytest.approx(7.05339, abs=1e-5)
    torch.testing.assert_close(student.grad, torch.tensor([[6.7794, -6.7142, -0.0652]]).double(), atol=1e-4, rtol=0)


# ---- generator


def test_samples_have_all_classes_alike() -> None:
    images, labels = sample(Generator(10, 1, 16, True, 4).train(), 25, 8, 10, seeded())
    assert images.shape == (25, 1, 16, 16)
    assert torch.bincount(labels).tolist() == [3] * 5 + [2] * 5
    assert not torch.equal(labels, labels.sort().values)


# ---- schedules


def test_student_rate_is_a_periodic_cosine_as_released(tmp_path: Path) -> None:
    released = FDDA(FDDA.Config()).student_rate(context(tmp_path, "finetune", lr=1e-6))
    expected = {
        0: 1e-6, 5_000: 8.5355e-7, 10_000: 5e-7, 20_000: 0, 30_000: 5e-7, 40_000: 1e-6, 60_000: 0, 70_000: 5e-7,
    }  # fmt: skip
    for step, rate in expected.items():
        assert released(step) == pytest.approx(rate, abs=1e-11), step
    once = FDDA(config()).student_rate(context(tmp_path, "finetune", lr=1e-6))
    assert once(0) == 1e-6 and once(3) == pytest.approx(5e-7), "6 steps in all"
    assert all(a > b for a, b in pairwise(once(step) for step in range(6)))


def test_generator_rate_falls_at_its_milestones(tmp_path: Path) -> None:
    rate = FDDA(FDDA.Config()).generator_rate(context(tmp_path, "synthesize", steps_per_epoch=200))
    for epoch, expected in {0: 1e-3, 99: 1e-3, 100: 1e-4, 200: 1e-5, 300: 1e-6, 399: 1e-6}.items():
        assert rate(epoch * 200) == pytest.approx(expected) == pytest.approx(rate(epoch * 200 + 199))


def test_paper_scale_trains_350_epochs_after_50() -> None:
    plan = Plan(ROOT, "paper", ["fdda"], [0])
    for run in plan.runs:
        recipe, declared = plan.pair(run).finetune, loading.resolve(ROOT, "fdda", run.setting, "paper")
        assert (recipe.epochs, recipe.steps_per_epoch, recipe.batch_size) == (350, 200, 32)
        assert (recipe.lr, recipe.nesterov, recipe.momentum, recipe.weight_decay) == (1e-6, True, 0.9, 1e-4)
        assert isinstance(declared, FDDA.Config)
        assert (declared.warmup_epochs, declared.range_steps, declared.cosine_steps) == (50, 4 * 200, 20_000)
        assert (declared.range_source, declared.augment_generated) == ("generated_early", False)
    assert {plan.synthesis_run(run).setting for run in plan.runs} == {"w4a4"}


# ---- stages


def test_synthesize_describes_its_images_and_keeps_the_generator(shared: Path) -> None:
    ctx = context(shared, "finetune")
    images, labels = ctx.synthetic()
    assert images.shape == (20, 1, 16, 16) and torch.bincount(labels).tolist() == [2] * 10
    index = ctx.kept("calibration")["index"]
    assert REAL.labels[index].tolist() == list(range(10))
    fresh, trained = Trainee.fresh(ctx, config()), Trainee.kept(ctx, config())
    pairs = zip(fresh.generator.parameters(), trained.generator.parameters(), strict=True)
    assert not any(torch.equal(before, after) for before, after in pairs)
    steps = {state["step"].item() for state in trained.optimizer.state_dict()["state"].values()}
    assert steps == {6}, "Adam goes on where it was"


def test_records_describe_the_centres(tmp_path: Path) -> None:
    ctx = context(tmp_path, "synthesize")
    FDDA(config()).synthesize(ctx)
    assert set(ctx.records) == {
        "recognised_classes", "one_class_accuracy", "centre_distance_own", "centre_distance_other", "centre_distance_generated",
    }  # fmt: skip
    index = calibration_indices(REAL.labels, 10, 1, ctx.generator("calibration"))
    assert ctx.records["recognised_classes"] == (TEACHER(REAL.images[index]).argmax(1) == REAL.labels[index]).sum()
    assert ctx.records["centre_distance_own"] < ctx.records["centre_distance_other"], "statistics tell classes apart"


def capture(ctx: Context) -> list[nn.Module]:
    """The models that `fit` trains."""
    models_, fit = [], ctx.fit

    def watched(model: nn.Module, *args: object, **options: object) -> nn.Module:
        models_.append(model)
        return fit(model, *args, **options)  # type: ignore[arg-type]

    ctx.fit = watched  # type: ignore[method-assign]
    return models_


def test_early_ranges_see_the_very_generator_of_synthesize(shared: Path, tmp_path: Path) -> None:
    ctx = context(tmp_path, "compress", shared)
    trained = capture(ctx)
    FDDA(config(range_source="generated_early", range_steps=6)).compress(ctx)  # as long as its warm-up
    assert same_bits(trained[0].generator.state_dict(), ctx.kept("generator"))  # type: ignore[operator,union-attr]


@pytest.mark.parametrize("source", ["generated_early", "generated_end_of_warmup", "calibration"])
def test_calibration_moves_ranges_and_finetuning_parameters_only(
    source: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = models.build("resnet_cifar", **RESNET8).eval().requires_grad_(False)
    teacher.load_state_dict(TEACHER.state_dict())
    monkeypatch.setattr(fdda, "frozen_teacher", lambda _: teacher)
    method = FDDA(config(range_source=source, weight_bits=3))
    ctx = context(tmp_path, "compress", shared)
    student = method.compress(ctx)
    tensors = {name: t.clone() for name, t in student.state_dict().items()}
    assert all(torch.equal(tensors[name], t) for name, t in TEACHER.state_dict().items())
    ranges = [tensors[name] for name in tensors if name.endswith(".hi")]
    assert len(ranges) == 7 and all(hi > 0 for hi in ranges)
    assert 0 <= ctx.records["before_finetuning_top1"] <= 100

    after = method.finetune(context(tmp_path, "finetune", shared), student).state_dict()
    changed = {name for name in after if not torch.equal(after[name], tensors[name])}
    assert changed == {name for name, _ in student.named_parameters()}, "neither ranges nor running statistics"
    assert same_bits(teacher.state_dict(), TEACHER.state_dict())


def finetuned(shared: Path, folder: Path, **changes: object) -> tuple[nn.Module, list[nn.Module]]:
    method, ctx = FDDA(config(range_source="calibration", **changes)), context(folder, "finetune", shared)
    student = method.compress(context(folder, "compress", shared))
    trained = capture(ctx)
    return method.finetune(ctx, student), trained


def test_the_student_never_reaches_the_generator(shared: Path, tmp_path: Path) -> None:
    one, trained = finetuned(shared, tmp_path / "one")
    other, trained_too = finetuned(shared, tmp_path / "other", alpha=0, crop=1.0)
    assert not same_bits(one.state_dict(), other.state_dict())
    generators = [joint.generator.state_dict() for joint in (trained[0], trained_too[0])]  # type: ignore[operator,union-attr]
    assert same_bits(*generators)
    assert not same_bits(generators[0], context(tmp_path, "finetune", shared).kept("generator")), "it goes on learning"


def test_ablations_end_in_different_students(shared: Path, tmp_path: Path) -> None:
    settings = {
        "fdda": {}, "none": {"finetuning": "none"}, "calibration": {"finetuning": "calibration"},
        "augmented": {"augment_generated": True}, "global": {"distorted_weight": 0, "centralised_weight": 0},
    }  # fmt: skip
    students = {name: finetuned(shared, tmp_path / name, **changes)[0] for name, changes in settings.items()}
    weights = {name: student.classifier.weight for name, student in students.items()}
    assert torch.equal(weights["none"], TEACHER.classifier.weight)  # type: ignore[arg-type,union-attr]
    names = list(settings)
    assert not any(torch.equal(weights[a], weights[b]) for i, a in enumerate(names) for b in names[:i])  # type: ignore[arg-type]


def test_a_student_batch_is_half_real_and_carries_no_gradient_to_the_generator() -> None:
    images = torch.randn(16, 1, 16, 16, requires_grad=True)
    generated = Generated(images.sum(), images, TEACHER(images))
    inputs, logits = student_batch(TEACHER, REAL.images[:16], generated)
    assert inputs.shape == (32, 1, 16, 16) and torch.equal(inputs[:16], REAL.images[:16])
    assert torch.equal(inputs[16:], images)
    assert not inputs.requires_grad and not logits.requires_grad
    torch.testing.assert_close(logits, TEACHER(inputs))


@pytest.mark.parametrize(("batch_size", "rows"), [(16, 8), (32, 10)])
def test_the_real_half_is_as_large_as_the_calibration_set_at_most(
    batch_size: int, rows: int, shared: Path, tmp_path: Path
) -> None:
    batches = FDDA(config())._real_batches(context(tmp_path, "finetune", shared, batch_size=batch_size), "finetune")
    assert batches(0)[0].shape == (rows, 1, 16, 16)
    assert len(set(batches(0)[1].tolist())) == rows


@pytest.mark.parametrize("stage", ["synthesize", "compress", "finetune"])
def test_a_killed_stage_resumes_to_the_same_bits(
    stage: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after its first checkpoint: of two epochs, or, in compress, with all ranges tracked and nothing stored."""
    method = FDDA(config(range_source="generated_early" if stage == "compress" else "calibration"))

    def run(folder: Path) -> dict[str, Tensor]:
        ctx = context(folder, stage, shared)
        if stage == "synthesize":
            images, _ = method.synthesize(ctx)
            return {"images": images} | ctx.companions
        if stage == "compress":
            return method.compress(ctx).state_dict()
        return method.finetune(ctx, method.compress(context(folder, "compress", shared))).state_dict()

    whole, save = run(tmp_path / "whole"), Checkpoint.save

    def save_and_die(*arguments: object) -> None:
        save(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoint, "save", save_and_die)
        run(tmp_path / "killed")
    torch.rand(3)
    assert same_bits(whole, run(tmp_path / "killed"))


# ---- bad input


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight_bits": 0}, {"activation_bits": 0}, {"first_last_bits": 0}, {"images_per_class": 0}, {"generator_width": 5},
        {"distorted_weight": -1}, {"range_steps": 0}, {"crop": 0}, {"crop": 1.1}, {"range_source": "real"}, {"cosine_steps": 0},
    ],
)  # fmt: skip
def test_impossible_configuration_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FDDA.Config.model_validate(wrong)


def test_impossible_runs_are_one_clear_error(shared: Path, tmp_path: Path) -> None:
    ctx = context(tmp_path, "synthesize", shared)
    ctx.dense = lambda: nn.Sequential(nn.Conv2d(1, 1, 1))  # type: ignore[method-assign]
    with pytest.raises(UserError, match="batch normalisation"):
        FDDA(config()).synthesize(ctx)
    with pytest.raises(UserError, match="batch_size is 1"):
        FDDA(config()).synthesize(context(tmp_path, "synthesize", shared, batch_size=1))


def test_every_setting_is_valid_at_every_scale() -> None:
    declared = discovery.declaration(ROOT, "fdda")
    for scale in declared.scales:
        for setting in declared.settings:
            loading.resolve(ROOT, "fdda", setting, scale)
    assert all(declared.label_of(name) != name for name in declared.settings)
    assert set(declared.settings) - set(declared.synthesis_from) == {"w4a4", "w3a3_global"}, "they train generators"


# ---- one iteration at full size


def copied_centres(teacher: nn.Module, calibration: SyntheticImages, classes: int) -> ClassCentres:
    """The centre of one image for all classes: a thousand forward passes of ResNet-18 would take a minute."""
    with torch.no_grad(), NormInputs(teacher) as statistics:
        teacher(calibration.images[:1])
        seen = statistics.take()
    means, variances = (part.expand(classes, -1) for part in Statistics.of(seen))
    return ClassCentres(means, variances, torch.ones(classes, dtype=torch.bool), tuple(len(m) for _, m, _ in seen))


def test_one_iteration_at_full_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNet-18 and the generator of 41 million parameters through all three stages."""
    monkeypatch.setattr(Checkpoint, "save", lambda *_: None)  # seconds of writing that other tests cover
    monkeypatch.setattr(fdda, "describe", lambda *_: None)
    monkeypatch.setattr(fdda, "class_centres", copied_centres)
    monkeypatch.setattr(fdda, "calibration_indices", lambda *_: torch.arange(4))
    source = "generated_end_of_warmup"  # early ranges would train the same step again
    method = FDDA(FDDA.Config(warmup_epochs=1, range_source=source, range_steps=1, images=2, first_last_bits=8))
    contexts = {}
    for stage in ("synthesize", "compress", "finetune"):
        ctx = contexts[stage] = full_size_context(tmp_path, "imagenet/resnet18", "fdda", "w4a4_first_last8", stage)
        ctx.dense = lambda ctx=ctx: ctx.build().eval()  # type: ignore[method-assign,misc]
    images, labels = method.synthesize(contexts["synthesize"])
    assert images.shape == (2, 3, 224, 224) and labels.unique().tolist() == [0, 1]
    kept = contexts["synthesize"].companions
    assert sum(t.numel() for name, t in kept.items() if name.startswith("generator/")) > 41_405_315
    for stage in ("compress", "finetune"):
        contexts[stage]._synthesized = lambda: kept | {"images": images, "labels": labels}  # type: ignore[method-assign]
    pair = contexts["finetune"].pair
    faster = pair.finetune.model_copy(
        update={"lr": 1e-3}
    )  # at 1e-6 most of a step is below the precision of the weights
    contexts["finetune"].pair = pair.model_copy(update={"finetune": faster})
    student = method.compress(contexts["compress"])
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    trained = method.finetune(contexts["finetune"], student)
    assert all(torch.isfinite(p).all() for p in trained.parameters())
    assert not any(torch.equal(p, before[name]) for name, p in trained.named_parameters())
    counts = accounting.account(trained, (3, 224, 224))
    assert (counts.params, counts.weights, counts.macs) == (11_689_512, 11_678_912, 1_814_073_344)
