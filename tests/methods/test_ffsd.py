"""FFSD against its equations, in float64; what leaves is the student alone."""

import copy
import csv
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from compressbench import accounting, models, storage
from compressbench.config import load_scale
from compressbench.errors import UserError
from compressbench.training import LearningRate, State
from compressbench.training.checkpoint import same_bits
from compressbench.training.distillation import attention, forward_with_taps
from methods.baselines.mutual_learning.method import student_loss
from methods.ffsd import counts
from methods.ffsd.attention_shift import diversity_loss, shift, shifted_attention
from methods.ffsd.method import FFSD, Losses, Ramp, ramp
from methods.ffsd.networks import Cohort, Decoder, Fusion, initialise, mixer, tap_channels
from tests.conftest import ROOT
from tests.contexts import full_size_context, make_context

RESNET = {"in_channels": 1, "blocks": [1, 1, 1], "widths": [4, 6, 8], "shortcut": "conv", "classes": 5}
SIZE, CLASSES = 16, 5
STRONG = {"diversity_weight": 0.3, "fusion_weight": 7.0, "decoder_weight": 20.0}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def method(**changes: object) -> FFSD:
    return FFSD(FFSD.Config.model_validate(STRONG | changes))


def cohort(students: int = 2) -> Cohort:
    torch.manual_seed(0)
    networks = [models.build("resnet_cifar", **RESNET) for _ in range(students + 1)]
    return Cohort(networks[0], networks[1:], [4, 6, 8], CLASSES).double()


IMAGES, LABELS = randn(6, 1, SIZE, SIZE), torch.tensor([0, 1, 2, 3, 4, 0])


def losses(together: Cohort, **changes: object) -> Losses:
    return method(**changes).losses(together, IMAGES, LABELS)


def gradients(loss: Tensor, module: nn.Module) -> list[Tensor]:
    """Zeros where the loss does not reach a parameter."""
    found = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, module.parameters(), strict=True)]


def largest(values: list[Tensor]) -> float:
    return max(float(value.abs().max()) for value in values)


# ---- elementary functions


def test_shifted_attention_of_one_to_six() -> None:
    m = math.sqrt(91)
    assert m == pytest.approx(9.539392, abs=5e-7)
    expected = [1 / m, m / 2, *(m - j / m for j in (3, 4, 5, 6))]  # k = 2
    found = shifted_attention(torch.arange(1.0, 7).double()[None])
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float64), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("positions", "k"), [(64, 21), (49, 16), (16, 5)])
def test_a_third_of_the_positions_rounded_down_is_not_above_the_threshold(positions: int, k: int) -> None:
    a = torch.rand(2, positions, dtype=torch.float64)
    m = a.norm(dim=1, keepdim=True)
    tau, h = shifted_attention(a), a / m
    assert ((tau == h).sum(1) == k - 1).all() and ((tau == m / 2).sum(1) == 1).all()
    torch.testing.assert_close(tau, (m / 2 - h) * torch.sign(h - h.sort(1).values[:, k - 1, None]) + m / 2)


def test_entries_at_the_threshold_share_one_value() -> None:
    a = torch.tensor([[1.0, 2, 2, 2, 5, 6]]).double()
    assert shifted_attention(a)[0, 1:4].tolist() == [a.norm().item() / 2] * 3


def test_shift_adds_the_same_to_every_channel_and_nothing_below_the_threshold() -> None:
    f = randn(3, 5, 4, 4)
    a = attention(f)
    m = a.norm(dim=1, keepdim=True)
    h = a / m
    threshold = h.sort(1).values[:, 4, None]
    moved = (shift(f) - f).flatten(2)
    torch.testing.assert_close(moved, moved[:, :1].expand_as(moved), rtol=0, atol=1e-14)
    below, at, above = ((h < threshold), (h == threshold), (h > threshold))
    assert torch.equal(shift(f).flatten(2).mT[below], f.flatten(2).mT[below])
    for where, increment in ((at, (m / 2 - h) * m / 5), (above, (m - 2 * h) * m / 5)):
        torch.testing.assert_close(moved[:, 0][where], increment[where], rtol=0, atol=1e-13)


def test_diversity_normalises_its_first_argument_only() -> None:
    x, y = randn(2, 5, 4, 4), randn(2, 5, 4, 4, seed=1)
    a = attention(x)
    expected = (a / a.norm(dim=1, keepdim=True) - shifted_attention(attention(y))).square().mean()
    torch.testing.assert_close(diversity_loss(x, y), expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(diversity_loss(3 * x, y), expected, rtol=1e-13, atol=0)
    assert not torch.allclose(diversity_loss(x, 3 * y), expected)


def test_weights_grow_over_five_epochs() -> None:
    published = [0.040762, 0.165299, 0.449329, 0.818731, 1, 1, 1]
    assert [ramp(epoch, 5) for epoch in range(1, 8)] == pytest.approx(published, abs=5e-7)
    assert 10 * ramp(1, 5) == pytest.approx(0.407622, abs=5e-7)
    together = cohort()
    for epoch in range(3):
        Ramp(2).on_epoch_start(State(together, [], 3, 1, epoch=epoch))
        assert together.ramp == pytest.approx([math.exp(-5 / 4), 1, 1][epoch])


# ---- losses


def by_the_equations(c: Cohort, config: FFSD.Config) -> dict[str, Tensor]:
    """Section by section, on copies of the decoders: nothing here is shared with the method."""
    n, big_t = len(c.students), config.temperature

    def attend(f: Tensor) -> Tensor:
        return (f**2).sum(1, keepdim=True) / f.shape[1]

    def distance(x: Tensor, y: Tensor) -> Tensor:
        rows = [a / a.norm() - b / b.norm() for a, b in zip(x.flatten(1), y.flatten(1), strict=True)]
        return torch.stack(rows).pow(2).mean()

    def kl(student: Tensor, teacher: Tensor) -> Tensor:
        p, q = torch.softmax(student / big_t, 1), torch.softmax(teacher.detach() / big_t, 1)
        return big_t**2 * (q * (q.log() - p.log())).sum(1).mean()

    def decoded(decoder: Decoder, f: Tensor, train: bool) -> list[Tensor]:
        f, maps = f.detach(), []
        for stage in copy.deepcopy(decoder).train(train).stages:
            f = stage(f)
            maps.insert(0, f)
        return maps

    z, f = zip(*(forward_with_taps(s, IMAGES) for s in c.students), strict=True)
    z_leader, f_leader = forward_with_taps(c.leader, IMAGES)
    t = c.branch(f_leader[-1])
    big_z = torch.cat([maps[-1].detach() for maps in f], 1)
    z_fused, fused = c.fusion(big_z)
    found = {}
    for i in range(n):
        found[f"student{i}"] = F.cross_entropy(z[i], LABELS) + sum(kl(z[i], z[j]) for j in range(n) if j != i) / (n - 1)
        if i:
            previous = f[i - 1][-1].detach()
            a, target = attend(f[i][-1]).flatten(1), shifted_attention(attend(previous).flatten(1))
            a = a / a.norm(dim=1, keepdim=True)
            g = decoded(c.decoders[i - 1], shift(previous), train=False)
            shallow = sum(distance(attend(f[i][k]), attend(g[k]).detach()) for k in range(2))
            found[f"student{i}"] += config.diversity_weight * ((a - target).pow(2).mean() + shallow)
    found["fusion"] = F.cross_entropy(z_fused, LABELS) + kl(z_fused, sum(z) / n)
    g = decoded(c.decoders[-1], fused, train=False)
    features = distance(attend(f_leader[-1]), attend(fused).detach()) + distance(attend(t), attend(big_z))
    features += sum(distance(attend(f_leader[k]), attend(g[k]).detach()) for k in range(2))
    found["leader"] = F.cross_entropy(z_leader, LABELS) + kl(z_leader, z_fused) + config.fusion_weight * features
    own = [*f[1:], f_leader]
    made = [decoded(q, maps[-1], train=True) for q, maps in zip(c.decoders, own, strict=True)]
    found["decoders"] = config.decoder_weight * sum(
        distance(g[k], maps[k].detach()) + distance(attend(g[k]), attend(maps[k]).detach())
        for g, maps in zip(made, own, strict=True)
        for k in range(2)
    )
    return found


@pytest.mark.parametrize("students", [2, 3])
def test_every_loss_is_that_of_the_equations(students: int) -> None:
    c = cohort(students)
    expected, found = by_the_equations(c, method().config), losses(c)
    mine = {f"student{i}": loss for i, loss in enumerate(found.students)}
    mine |= {"fusion": found.fusion, "leader": found.leader, "decoders": found.decoders}
    assert mine.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("students", [2, 3])
def test_one_backward_over_the_sum_does_what_separate_updates_do(students: int) -> None:
    together, apart = cohort(students), cohort(students)
    losses(together).total.backward()
    found = losses(apart)
    owners = [*zip(found.students, ([s] for s in apart.students), strict=True)]
    owners += [(found.fusion, [apart.fusion]), (found.leader, [apart.leader, apart.branch])]
    owners += [(found.decoders, [apart.decoders])]
    for loss, modules in owners:
        for module in modules:
            for p, g in zip(module.parameters(), gradients(loss, module), strict=True):
                p.grad = g
    assert largest([a.grad - b.grad for a, b in zip(together.parameters(), apart.parameters(), strict=True)]) < 1e-12  # type: ignore[operator]
    for c in (together, apart):
        torch.optim.SGD(c.parameters(), lr=0.1, momentum=0.9, nesterov=True).step()
    assert (
        largest([a.detach() - b.detach() for a, b in zip(together.parameters(), apart.parameters(), strict=True)])
        < 1e-12
    )


def test_no_loss_reaches_a_module_of_another() -> None:
    c = cohort(3)
    found = losses(c)
    leader, students = [c.leader, c.branch], list(c.students)
    others = {
        "leader": (found.leader, [*students, c.fusion, c.decoders]),
        "fusion": (found.fusion, [*students, *leader, c.decoders]),
        "decoders": (found.decoders, [*students, *leader, c.fusion]),
    } | {
        f"student{i}": (loss, [*(s for s in students if s is not students[i]), *leader, c.fusion, c.decoders])
        for i, loss in enumerate(found.students)
    }
    for name, (loss, modules) in others.items():
        assert largest([g for module in modules for g in gradients(loss, module)]) == 0, name
    assert all(largest(gradients(loss, s)) > 0 for loss, s in zip(found.students, students, strict=True))
    assert min(largest(gradients(found.leader, m)) for m in leader) > 0
    assert largest(gradients(found.fusion, c.fusion)) > 0 and largest(gradients(found.decoders, c.decoders)) > 0


def test_each_weight_moves_the_networks_that_it_belongs_to() -> None:
    modules = ("leader", "branch", "students", "fusion", "decoders")
    owners = {
        "decoder_weight": {"decoders"}, "fusion_weight": {"leader", "branch"}, "diversity_weight": {"students"},
    }  # fmt: skip
    before = cohort()
    losses(before).total.backward()
    for weight, changed in owners.items():
        after = cohort()
        losses(after, **{weight: 2 * STRONG[weight]}).total.backward()
        for name in modules:
            pairs = zip(before.get_submodule(name).parameters(), after.get_submodule(name).parameters(), strict=True)
            assert any(not torch.equal(a.grad, b.grad) for a, b in pairs) == (name in changed), (weight, name)  # type: ignore[arg-type]


def test_student_zero_learns_from_labels_and_logits_only() -> None:
    weighted, plain = losses(cohort()), losses(cohort(), diversity_weight=0, fusion_weight=0, decoder_weight=0)
    assert torch.equal(weighted.students[0], plain.students[0])
    assert not torch.equal(weighted.students[1], plain.students[1])


def test_without_weights_the_students_learn_mutually() -> None:
    c = cohort()
    found = losses(c, diversity_weight=0, fusion_weight=0, temperature=1)
    logits = [student(IMAGES) for student in c.students]
    for k in range(2):
        mutual = student_loss(logits, k, LABELS)
        torch.testing.assert_close(found.students[k], mutual, rtol=0, atol=1e-14)
        for a, b in zip(gradients(found.students[k], c.students[k]), gradients(mutual, c.students[k]), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def test_the_ramp_scales_the_three_weights_and_neither_labels_nor_logits() -> None:
    half, off = cohort(), {"diversity_weight": 0, "fusion_weight": 0, "decoder_weight": 0}
    half.ramp = 0.5
    ramped, weak, none = (
        losses(half),
        losses(cohort(), **{k: v / 2 for k, v in STRONG.items()}),
        losses(cohort(), **off),
    )
    for a, b in zip([*ramped.students, *ramped[1:]], [*weak.students, *weak[1:]], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=0)
    half.ramp = 0.0
    assert torch.equal(losses(half).total, none.total)


def statistics(module: nn.Module) -> list[Tensor]:
    return [b.clone() for name, b in module.named_buffers() if "running" in name]


def test_decoded_targets_leave_the_running_statistics_alone() -> None:
    decoder, deepest = Decoder([4, 6, 8]).double(), randn(6, 8, 4, 4).relu()
    before = statistics(decoder)
    targets = decoder.targets(deepest)
    assert all(map(torch.equal, before, statistics(decoder))) and decoder.training
    assert [tuple(f.shape) for f in targets] == [(6, 4, 16, 16), (6, 6, 8, 8)] and not targets[0].requires_grad
    decoder(deepest)
    assert not any(map(torch.equal, before, statistics(decoder)))


def test_a_decoder_restores_sides_that_were_rounded_up_when_they_were_halved() -> None:
    sides = [(14, 13), (7, 7), (4, 4)]
    decoder = Decoder([4, 6, 8], sides).double()
    assert [tuple(f.shape[2:]) for f in decoder(randn(2, 8, 4, 4))] == sides[:2]
    exact = Decoder([4, 6, 8], [(16, 16), (8, 8), (4, 4)])
    assert [s[0].output_padding for s in Decoder([4, 6, 8]).stages] == [s[0].output_padding for s in exact.stages]


def test_a_step_trains_the_statistics_of_a_decoder_on_its_own_network_once() -> None:
    c = cohort()
    (expected,) = (copy.deepcopy(c.decoders[1]),)
    expected(forward_with_taps(copy.deepcopy(c.leader), IMAGES)[1][-1])
    losses(c)
    assert all(map(torch.equal, statistics(expected), statistics(c.decoders[1])))


def test_three_students_are_concatenated_and_each_follows_the_one_before() -> None:
    c = cohort(3)
    assert c.fusion.mixer[0].conv.in_channels == 24 and c.branch[1].conv.out_channels == 24
    assert len(c.decoders) == 3
    before = [forward_with_taps(s, IMAGES)[1][-1].detach() for s in c.students]
    own = forward_with_taps(c.students[2], IMAGES)[1][-1]
    gap = losses(c, decoder_weight=0).students[2] - losses(c, diversity_weight=0).students[2]
    decoded = gap / STRONG["diversity_weight"] - diversity_loss(own, before[1])
    assert 0 < decoded.item() < 2 / 64 + 2 / 256, "two distances of attention maps at 8x8 and 16x16"


# ---- modules and networks


@pytest.mark.parametrize(("c", "n", "classes"), [(64, 2, 100), (128, 2, 100), (64, 3, 10)])
def test_modules_have_as_many_parameters_as_their_closed_forms(c: int, n: int, classes: int) -> None:
    count = {
        name: sum(p.numel() for p in module.parameters())
        for name, module in {
            "fusion": Fusion(n, c, classes), "branch": mixer(c, n * c), "decoder": Decoder([c // 4, c // 2, c]),
        }.items()
    }  # fmt: skip
    assert count["fusion"] == 11 * n * c + n * c**2 + 2 * c + c * classes + classes
    assert count["branch"] == 11 * c + n * c**2 + 2 * n * c
    assert count["decoder"] == sum(9 * a * (a // 2) + 2 * (a // 2) for a in (c, c // 2))


def test_modules_start_as_published() -> None:
    torch.manual_seed(0)
    decoder, branch = Decoder([64, 128]), mixer(64, 128)
    for module in (decoder, branch):
        initialise(module)
    for conv, fan in ((decoder.stages[0][0], 9 * 64), (branch[0].conv, 9 * 64), (branch[1].conv, 128)):
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / fan), rel=0.06)


def test_every_number_that_needs_no_training_is_the_published_one() -> None:
    with (ROOT / "methods/ffsd/published.csv").open(encoding="utf-8") as file:
        printed = {(r["model"], r["metric"]): r["value"] for r in csv.DictReader(file) if r["metric"] != "top1"}
    found = {(count.model, count.metric): count.value for count in counts.recompute()}
    assert len(found) == 9 * 6
    for key, value in printed.items():
        assert found[key] == int(value), key


@pytest.mark.parametrize(
    ("architecture", "arguments", "size", "message"),
    [
        ("densenet", {}, 30, "are 30x30, 15x15, 7x7: each must be half"),
        ("plain", {"in_channels": 3}, 32, "plain does not say where its feature maps are"),
        ("resnet18", {}, 32, "fewer than 3 positions"),
    ],
)
def test_networks_that_do_not_fit_are_named(architecture: str, arguments: dict, size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tap_channels(models.build(architecture, **arguments), (3, size, size))


@pytest.mark.parametrize("wrong", [{"students": 1}, {"temperature": 0}, {"ramp_epochs": 0}, {"fusion_weight": -1}])
def test_wrong_configurations_are_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        FFSD.Config.model_validate(wrong)


# ---- runs


class Rows:
    """A logger that keeps the history, and stops the run after `last` epochs."""

    def __init__(self, last: int = 99):
        self.rows: list[dict[str, float]] = []
        self.last = last

    def epoch(self, number: int, epochs: int, metrics: dict[str, float]) -> None:
        if number >= self.last:
            raise KeyboardInterrupt
        self.rows.append(metrics)


SHORT = {"epochs": 3, "steps_per_epoch": 4, "batch_size": 32, "nesterov": True}


def test_what_leaves_is_the_student_alone(data_root: Path, tmp_path: Path) -> None:
    ctx = make_context(data_root, tmp_path, **SHORT)
    ctx.logger = rows = Rows()
    leader, alone = FFSD(FFSD.Config()).compress(ctx), ctx.build().eval()
    assert accounting.account(leader, ctx.info.image_shape) == accounting.account(alone, ctx.info.image_shape)
    assert storage.describe(leader) == storage.describe(alone)
    assert leader.state_dict().keys() == alone.state_dict().keys() and not leader.training
    storage.save_model(leader, tmp_path / "stored")
    images = ctx.data.test.images[:50]
    with torch.no_grad():
        assert torch.equal(storage.load_model(tmp_path / "stored")(images), leader(images))
    assert {"validation_top1", *(f"validation_top1_{n}" for n in ("students", "student1", "fusion", "ensemble"))} <= (
        rows.rows[-1].keys()
    )
    assert rows.rows[-1]["validation_top1"] == ctx.validate(leader)["validation_top1"]
    assert ctx.records["trained_params"] > 3 * sum(p.numel() for p in alone.parameters())


def test_networks_start_apart_and_the_leader_as_the_student_alone(data_root: Path, tmp_path: Path) -> None:
    ctx = make_context(data_root, tmp_path)
    c, again = Cohort.build(ctx, 2), Cohort.build(ctx, 2)
    assert same_bits(c.state_dict(), again.state_dict())
    assert same_bits(c.leader.state_dict(), ctx.build().state_dict())
    stems = [network.stem.conv.weight for network in (c.leader, *c.students)]
    assert not torch.equal(stems[0], stems[1]) and not torch.equal(stems[1], stems[2])


def test_optimisers_have_the_published_rates_and_decays(data_root: Path, tmp_path: Path) -> None:
    ctx = make_context(data_root, tmp_path, nesterov=True, weight_decay=1e-4)
    c = Cohort.build(ctx, 2)
    sgd, adam = method().optimizers(ctx, c)
    assert [(g["lr"], g["weight_decay"], g["momentum"], g["nesterov"]) for g in sgd.param_groups] == [
        (0.1, 1e-4, 0.9, True), (0.1, 1e-5, 0.9, True),
    ]  # fmt: skip
    assert (type(adam), adam.param_groups[0]["lr"], adam.param_groups[0]["weight_decay"]) == (
        torch.optim.Adam, 1e-3, 1e-4,
    )  # fmt: skip
    held = [p for o in (sgd, adam) for g in o.param_groups for p in g["params"]]
    assert len(held) == len({id(p) for p in held}) == len(list(c.parameters()))
    LearningRate(lambda step: 0.1).on_step_start(State(c, [sgd, adam], 1, 1))
    assert adam.param_groups[0]["lr"] == pytest.approx(1e-4) and sgd.param_groups[1]["lr"] == pytest.approx(0.01)


def test_a_killed_run_ends_with_the_same_bits(data_root: Path, tmp_path: Path) -> None:
    def run(folder: str, last: int = 99) -> nn.Module:
        ctx = make_context(data_root, tmp_path / folder, **SHORT)
        ctx.logger = Rows(last)
        return FFSD(FFSD.Config(ramp_epochs=3)).compress(ctx)

    with pytest.raises(KeyboardInterrupt):
        run("killed", last=2)
    assert same_bits(run("whole").state_dict(), run("killed").state_dict())


@pytest.mark.parametrize(
    "pair",
    [
        "cifar100/resnet32_conv", "cifar100/wrn16_2", "cifar100/densenet40_12", "cifar100/googlenet",
        "imagenet/resnet18_steps",
    ],
)  # fmt: skip
def test_one_iteration_at_full_size(pair: str, tmp_path: Path) -> None:
    ctx = full_size_context(tmp_path, pair, "ffsd", "unchanged")
    before = ctx.build().state_dict()
    leader = FFSD(FFSD.Config()).compress(ctx)
    assert not same_bits(before, leader.state_dict())
    assert all(torch.isfinite(t).all() for t in leader.state_dict().values())


def test_the_desk_pair_has_the_size_of_its_description() -> None:
    pair = load_scale(ROOT, "desk").pairs["fashion_mnist/resnet8_thin"]
    network = models.build(pair.architecture, **pair.arguments)
    counts = accounting.account(network, (1, 28, 28))
    assert counts.params == 19_810 and round(counts.macs / 1e6, 3) == 2.365
    assert tap_channels(network, (1, 28, 28)) == [8, 16, 32]


def test_the_student_alone_has_the_same_budget() -> None:
    """The shared dense model of the distillation pairs is the student alone: no training of it is needed beside."""
    for scale in ("smoke", "desk", "paper"):
        pairs = load_scale(ROOT, scale).pairs
        chosen = [p for p in pairs.values() if p.teacher]
        assert chosen and all(p.scratch == p.pretrain for p in chosen)
