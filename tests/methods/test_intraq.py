"""IntraQ against the numbers of its definition. Quantizer, tracker: tests/layers; boxes, L_BN: tests/data_free."""

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compressbench import models
from compressbench.config import Recipe, discovery
from compressbench.data import Split
from compressbench.errors import UserError
from compressbench.layers.quantized import QuantConv2d, QuantizedActivation, QuantLinear, track_ranges
from compressbench.method import loading
from compressbench.method.tasks import TASKS
from compressbench.training import fit
from methods.intraq.images import Synthesizer, marginal_distance_loss, soft_inception_loss, soft_targets
from methods.intraq.method import IntraQ, Milestones, distillation_loss, quantized

ROOT = Path(__file__).parents[2]
FEATURES = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
CENTRE = torch.tensor([[1.0, 0.0]]).expand(3, 2)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small_teacher(seed=0):
    """A network that has learned a little: its classes are brightness levels of 8 x 8 images."""
    torch.manual_seed(seed)
    model = models.build("resnet_cifar", blocks=(1, 1, 1), widths=(8, 8, 16), in_channels=1, classes=4, shortcut="conv")
    labels = torch.arange(64) % 4
    images = torch.randn(64, 1, 8, 8) * 0.3 + labels[:, None, None, None] - 1.5
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(25):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.eval().requires_grad_(False), Split(images, labels)


TEACHER, REAL = small_teacher()

RECIPE = Recipe(epochs=2, steps_per_epoch=3, batch_size=16, lr=1e-3, nesterov=True, weight_decay=1e-4)


class FakeContext(SimpleNamespace):
    """What IntraQ uses of a Context, in memory."""

    def __init__(self, images=None):
        super().__init__(
            seed=0, device=torch.device("cpu"), logger=None, dense_folder=None, synthetic_file=None, records={},
            info=SimpleNamespace(classes=4, channels=1, size=8), data=SimpleNamespace(train=REAL, test=REAL),
            spec=TEACHER.spec, images=images, task=TASKS["classification"],
            recipes=SimpleNamespace(finetune=RECIPE),
        )  # fmt: skip

    def dense(self):
        model = models.build(TEACHER.spec.architecture, **TEACHER.spec.arguments)
        model.load_state_dict(TEACHER.state_dict())
        return model.eval()

    def synthetic(self):
        return self.images

    def generator(self, purpose):
        return seeded()

    def record(self, name, value):
        self.records[name] = value

    def fit(self, model, recipe, *, loss, hooks, batches, schedule, train_mode):
        optimizer = torch.optim.SGD(
            model.parameters(), recipe.lr, recipe.momentum, nesterov=True, weight_decay=recipe.weight_decay
        )
        return fit(
            model, batches, loss, [optimizer], epochs=recipe.epochs, steps_per_epoch=recipe.steps_per_epoch, seed=0,
            hooks=hooks, train_mode=train_mode,
        )  # fmt: skip


def desk(**changes):
    settings = {
        "batches": 2,
        "batch_size": 32,
        "steps": 60,
        "calibration": "synthetic",
        "calibration_steps": 30,
        "range_tracker": "plain",
        "milestones": None,
    }
    return IntraQ(IntraQ.Config(**(settings | changes)))


# ---- counts


def test_counts_of_the_published_networks():
    with (ROOT / "methods/intraq/published.csv").open(encoding="utf-8") as file:
        published = {
            (r["model"], r["setting"], r["metric"]): r["value"] for r in csv.DictReader(file) if r["metric"] != "top1"
        }
    recomputed = {(f.model, f.setting, f.metric): f.value for f in IntraQ.published_counts()}
    assert not set(published) - set(recomputed)
    for key, printed in published.items():
        digits = len(printed.split("e")[0].split(".")[1]) if "." in printed else 0
        unit = 10.0 ** (int(printed.split("e")[1]) if "e" in printed else 0)
        assert recomputed[key] / unit == pytest.approx(float(printed) / unit, abs=0.5001 * 10**-digits), key


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("ResNet-20", (272_474, 270_896, 40_813_184, 22, 19, 21)),
        ("ResNet-18", (11_689_512, 11_678_912, 1_814_073_344, 21, 17, 20)),
        ("MobileNetV1", (4_231_976, 4_209_088, 568_740_352, 28, 27, 27)),
        ("MobileNetV2", (3_504_960, 3_470_784, 313_619_328, 54, 36, 53)),
    ],
)
def test_parameters_weights_macs_and_quantizers(name, counts):
    recomputed = {f.metric: f.value for f in IntraQ.published_counts() if (f.model, f.setting) == (name, "dense")}
    assert tuple(recomputed.values()) == counts


def test_desk_network():
    from compressbench import accounting

    model = models.build("resnet_cifar", blocks=(1, 1, 1), in_channels=1, shortcut="conv")
    counts = accounting.account(model, (1, 28, 28))
    assert (counts.params, counts.weights, counts.macs) == (77_754, 77_072, 9_345_920)
    student = quantized(model, IntraQ.Config())
    assert sum(isinstance(m, QuantConv2d | QuantLinear) for m in student.modules()) == 10
    assert sum(isinstance(m, QuantizedActivation) for m in student.modules()) == 7
    assert sum(isinstance(m, nn.BatchNorm2d) for m in student.modules()) == 9
    assert accounting.account(student, (1, 28, 28)).bit_operations == 9_345_920 * 16


# ---- conversion


def test_conversion_of_resnet20_leaves_nothing_unquantized():
    model = models.build("resnet_cifar", shortcut="conv")
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    kinds = [type(m) for m in quantized(model, IntraQ.Config()).modules()]
    assert kinds.count(QuantConv2d) + kinds.count(QuantLinear) == 22
    assert kinds.count(QuantizedActivation) == 19
    assert not {nn.Conv2d, nn.Linear, nn.ReLU} & set(kinds)
    assert [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)] == norms


def test_first_and_last_layer_can_have_their_own_bits():
    model = quantized(models.build("resnet_cifar", shortcut="conv"), IntraQ.Config(first_last_bits=8))
    bits = [m.weight_bits for m in model.modules() if isinstance(m, QuantConv2d | QuantLinear)]
    assert bits[0] == bits[-1] == 8 and set(bits[1:-1]) == {4}


# ---- losses


@pytest.mark.parametrize(
    ("lower", "upper", "terms"), [(0.05, 0.8, (0.05, 0, 0.2)), (0.3, 0.5, (0.3, 0.007107, 0.5)), (0, 2, (0, 0, 0))]
)
def test_marginal_distance(lower, upper, terms):
    for i, expected in enumerate(terms):
        loss = marginal_distance_loss(FEATURES[i : i + 1], CENTRE[:1], torch.tensor([True]), lower, upper)
        assert loss.item() == pytest.approx(expected, abs=2e-6)
    everything = marginal_distance_loss(FEATURES, CENTRE, torch.ones(3, dtype=torch.bool), lower, upper)
    assert everything.item() == pytest.approx(sum(terms) / 3, abs=2e-6)


def test_classes_without_a_stored_feature_have_no_marginal_distance():
    features = FEATURES.clone().requires_grad_()
    centre = CENTRE.clone().requires_grad_()
    loss = marginal_distance_loss(features, centre, torch.zeros(3, dtype=torch.bool), 0.3, 0.5)
    loss.backward()
    assert loss == 0 and (features.grad == 0).all() and centre.grad is None


def test_soft_inception_gradient_is_in_the_labels_column_only():
    p = torch.rand(4, 5, generator=seeded(), dtype=torch.float64).requires_grad_()
    labels, targets = torch.tensor([0, 3, 3, 4]), torch.tensor([1.0, 0.96, 1.0, 0.97], dtype=torch.float64)
    soft_inception_loss(p, labels, targets).backward()
    expected = torch.zeros(4, 5, dtype=torch.float64)
    rows = torch.arange(4)
    expected[rows, labels] = 2 * (p.detach()[rows, labels] - targets) / 4
    torch.testing.assert_close(p.grad, expected)


def test_soft_targets_lie_between_epsilon_and_one_and_half_are_one():
    targets = soft_targets(10_000, 0.6, seeded())
    assert targets.min() >= 0.6 and targets.max() == 1
    assert abs((targets == 1).float().mean() - 0.5) < 0.02


def test_distillation_loss_and_gradient():
    student = torch.tensor([[2.0, 0.0, -1.0]], dtype=torch.float64, requires_grad=True)
    teacher, label = torch.tensor([[1.0, 1.0, -1.0]], dtype=torch.float64), torch.tensor([0])
    loss = distillation_loss(student, teacher, label, 20, 20)
    loss.backward()
    assert distillation_loss(student, teacher, label, 20, 0).item() == pytest.approx(0.169846, abs=1e-6)
    assert loss.item() == pytest.approx(7.05339, abs=1e-5)
    torch.testing.assert_close(
        student.grad, torch.tensor([[6.7794, -6.7142, -0.0652]], dtype=torch.float64), atol=1e-4, rtol=0
    )
    two = distillation_loss(student.repeat(2, 1), teacher.repeat(2, 1), label.repeat(2), 20, 20)
    assert two.item() == pytest.approx(loss.item())  # averaged over the batch, not over its classes


def test_equal_logits_leave_the_cross_entropy():
    logits = torch.randn(8, 10, generator=seeded())
    alone = nn.functional.cross_entropy(logits, torch.zeros(8, dtype=torch.long))
    assert distillation_loss(logits, logits, torch.zeros(8, dtype=torch.long), 20, 20).item() == pytest.approx(
        alone.item(), abs=1e-3
    )


@pytest.mark.parametrize(
    "index, rate", [(0, 1e-4), (19, 1e-4), (20, 1e-5), (39, 1e-5), (40, 1e-6), (59, 1e-6), (60, 1e-7), (150, 1e-7)]
)
def test_learning_rate_cifar(index, rate):
    assert Milestones(1e-4, (20, 40, 60)).rate(index) == pytest.approx(rate)


def test_learning_rate_imagenet():
    hook = Milestones(1e-6, (100,))
    assert hook.rate(99) == pytest.approx(1e-6) and hook.rate(100) == pytest.approx(1e-7)


# ---- stages


def test_synthesis_lowers_the_loss_leaves_the_teacher_alone_and_repeats():
    before = {name: t.clone() for name, t in TEACHER.state_dict().items()}

    def run():
        return Synthesizer(TEACHER, 4, desk(steps=200).config, seeded(7), torch.device("cpu")).batch((1, 8, 8))

    (images, labels), metrics = run()
    assert metrics["loss"] < metrics["first_loss"]
    assert torch.equal(run()[0].images, images)
    assert images.shape == (32, 1, 8, 8) and labels.shape == (32,)
    assert all(torch.equal(t, before[name]) for name, t in TEACHER.state_dict().items())
    assert (TEACHER(images).argmax(1) == labels).float().mean() > 0.9


def test_first_batch_has_no_centres_and_the_second_those_of_the_first():
    synthesizer = Synthesizer(TEACHER, 4, desk(steps=2).config, seeded(), torch.device("cpu"))
    assert synthesizer.centres(torch.tensor([0])) is None
    (images, labels), _ = synthesizer.batch((1, 8, 8))
    means, known = synthesizer.centres(torch.arange(4))
    assert torch.equal(known, torch.bincount(labels, minlength=4) > 0)
    torch.testing.assert_close(means[0], TEACHER.features(images[labels == 0]).mean(0))


@pytest.mark.parametrize("synthesis", ["intraq", "bn_ce", "noise", "real"])
def test_every_kind_of_images_has_a_label_each(synthesis):
    images, labels = desk(synthesis=synthesis, steps=3).synthesize(FakeContext())
    assert images.shape == (64, 1, 8, 8) and labels.shape == (64,)
    if synthesis == "noise":
        assert torch.equal(TEACHER(images).argmax(1), labels)


@pytest.mark.parametrize("calibration", ["synthetic", "generator"])
def test_calibration_changes_ranges_only_and_finetuning_everything_else(calibration):
    method = desk(calibration=calibration)
    ctx = FakeContext(method.synthesize(FakeContext()))
    student = method.compress(ctx)
    tensors = {name: t.clone() for name, t in student.state_dict().items()}
    assert all(torch.equal(tensors[name], t) for name, t in TEACHER.state_dict().items())
    assert all(tensors[name] > 0 for name in tensors if name.endswith(".hi"))
    assert 0 <= ctx.records["before_finetuning_top1"] <= 100

    after = method.finetune(ctx, student).state_dict()
    changed = {name for name in after if not torch.equal(after[name], tensors[name])}
    assert {name for name, _ in student.named_parameters()} == changed  # weights, biases, BN scale and shift


def test_frozen_ranges_do_not_move():
    student = quantized(FakeContext().dense(), desk().config)
    track_ranges(student, True)
    student(REAL.images)
    track_ranges(student, False)
    hi = student.stem.act.hi.clone()
    student(100 * REAL.images)
    assert torch.equal(student.stem.act.hi, hi)


# ---- bad input


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight_bits": 0},
        {"activation_bits": 0},
        {"eta": 0},
        {"eta": 1.1},
        {"lambda_lower": 0.9},
        {"epsilon": 0},
        {"epsilon": 1.1},
    ],
)
def test_impossible_configuration_is_refused(wrong):
    with pytest.raises(ValidationError):
        IntraQ.Config(**wrong)


def test_teacher_without_batch_norm_is_refused():
    ctx = FakeContext()
    ctx.dense = lambda: nn.Sequential(nn.Conv2d(1, 1, 1))
    with pytest.raises(UserError, match="batch normalisation"):
        desk().synthesize(ctx)


def test_every_setting_of_every_scale_is_valid():
    declared = discovery.declaration(ROOT, "intraq")
    for scale, runs in declared.scales.items():
        for setting in {s for settings in runs.runs.values() for s in settings}:
            loading.resolve(ROOT, "intraq", setting, scale)
    cifar100 = loading.resolve(ROOT, "intraq", "w3a3_cifar100", "paper")
    assert (cifar100.lambda_lower, cifar100.lambda_upper, cifar100.epsilon, cifar100.weight_bits) == (0.02, 1.0, 0.6, 3)
