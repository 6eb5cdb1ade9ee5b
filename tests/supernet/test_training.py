"""Training of a supernet: the sandwich rule, weight decay, statistics of a deployed structure."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from compressbench.config import parse
from compressbench.errors import UserError
from compressbench.method import Context
from compressbench.models.subnets import Subnet, as_tensors
from compressbench.supernet.config import SupernetConfig
from compressbench.supernet.training import Supernet, decayed, prepare, sandwich
from tests.contexts.supernet import SMALL, sampler, space, switchable


def test_only_ordinary_convolutions_and_the_linear_weight_decay() -> None:
    model = switchable()
    with_decay, without = decayed(model, 1e-4)
    shapes = [tuple(p.shape) for p in with_decay["params"]]
    assert len(shapes) == 6 and with_decay["weight_decay"] == 1e-4 and without["weight_decay"] == 0
    assert not any(len(s) == 4 and s[1] == 1 and s[0] != 16 for s in shapes)
    assert len(with_decay["params"]) + len(without["params"]) == len(list(model.parameters()))


def test_no_gradient_flows_through_the_teacher() -> None:
    model, structures = switchable().train(), space()
    images, labels = torch.randn(8, 1, 28, 28), torch.arange(8)
    loss, logits = sandwich(model, structures, Subnet(24, (0.75,) * 5), images, labels)
    (loss - F.cross_entropy(model.switch(structures.largest)(images), labels)).backward()
    conv = model.network.blocks[1].pointwise.conv
    assert conv.weight.grad[56:].abs().max() < 1e-6  # channels that only the largest network has
    assert conv.weight.grad[:32].abs().max() > 1e-4
    assert logits.shape == (8, 10)


def test_the_loss_is_the_sum_of_its_three_parts() -> None:
    model, structures, middle = switchable().train().double(), space(), Subnet(24, (0.75,) * 5)
    images, labels = torch.randn(8, 1, 28, 28, dtype=torch.float64), torch.arange(8)
    z = {s: model.switch(s)(images).detach() for s in (structures.largest, middle, structures.smallest)}
    q = z[structures.largest].softmax(1)
    divergences = [(q * (q.log() - z[s].softmax(1).log())).sum(1).mean() for s in (middle, structures.smallest)]
    expected = F.cross_entropy(z[structures.largest], labels) + sum(divergences)
    loss, logits = sandwich(model, structures, middle, images, labels)
    assert torch.allclose(loss, expected, rtol=1e-12) and torch.allclose(logits, z[middle])


def test_statistics_are_the_mean_over_nine_batches(ctx: Context) -> None:
    supernet = prepare(ctx, parse(SupernetConfig, SMALL, "test"))
    network = ctx.recalibrate(supernet.model.at("min"), 9)
    source = ctx.batches(ctx.recipes.finetune)
    assert source.steps_per_epoch > 12
    seen: list[Tensor] = []
    stem = network.network.stem.conv
    handle = stem.register_forward_hook(lambda *args: seen.append(args[2]))
    for step in range(12):
        network(source(step)[0])
    handle.remove()
    means = torch.stack([out.mean((0, 2, 3)) for out in seen[:9]]).mean(0)
    variances = torch.stack([out.transpose(0, 1).flatten(1).var(1) for out in seen[:9]]).mean(0)
    norm = supernet.model.network.stem.bn
    assert torch.allclose(norm.means[0, :8], means, atol=1e-5) and torch.allclose(
        norm.variances[0, :8], variances, atol=1e-5
    )
    assert (norm.means[0, 8:] == 0).all() and (norm.variances[0, 8:] == 1).all()
    assert not torch.allclose(norm.running_mean[:8], means)


def test_unreachable_targets_and_a_missing_table_are_named(ctx: Context) -> None:
    far = SMALL | {"constraints": ({"start": 100, "stop": 200, "step": 10},)}
    with pytest.raises(UserError, match="no sampled structure has any of the targets"):
        prepare(ctx, parse(SupernetConfig, far, "test"))
    latency = SMALL | {"constraints": ({"resource": "latency", "start": 100, "stop": 200, "step": 10},)}
    with pytest.raises(UserError, match="a constraint on latency needs a table"):
        prepare(ctx, parse(SupernetConfig, latency, "test"))
    own = sampler()
    with pytest.raises(UserError, match="was sampled; remove the target"):
        own.draw(own.budgets[0]._replace(target=700))
    with pytest.raises(UserError, match="resolutions must be"):
        parse(SupernetConfig, SMALL | {"resolutions": (8, 15)}, "test")


def small(ctx: Context) -> Supernet:
    return prepare(ctx, parse(SupernetConfig, SMALL, "test"))


def test_points_are_the_smallest_the_chosen_and_the_largest_network_with_their_costs(ctx: Context) -> None:
    supernet = small(ctx)
    chosen = supernet.random_structures()
    points = supernet.points(chosen)
    assert list(points) == ["min", *(f"m{budget.target}" for budget in supernet.sampler.budgets), "max"]
    for name, point in points.items():
        subnet = Subnet(point["resolution"], tuple(point["widths"]))
        macs = supernet.space.layout.macs(*as_tensors([subnet])).item()
        assert point["cost"] == {"macs": macs} and (name in ("min", "max") or abs(macs / 1e3 - int(name[1:])) <= 20)
    assert small(ctx).random_structures() == chosen, "the same ones in every method of the same space and seed"


def test_a_deployed_model_has_the_trained_weights_and_statistics_of_every_point(ctx: Context) -> None:
    supernet = small(ctx)
    with torch.no_grad():
        for parameter in supernet.model.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))
    deployed = supernet.deploy(supernet.random_structures())
    trained = dict(supernet.model.named_parameters())
    assert all(torch.equal(p, trained[name]) for name, p in deployed.named_parameters())
    norm, expected = deployed.network.stem.bn, ctx.recalibrate(supernet.model.at("max"), 9).stem.bn
    assert norm.means.shape == (len(deployed.points), 16) and not deployed.training
    torch.testing.assert_close(norm.means[-1], expected.running_mean)
    torch.testing.assert_close(norm.variances[-1], expected.running_var)


def test_the_same_seed_starts_from_the_same_weights_and_another_from_others(ctx: Context) -> None:
    one, same, other = small(ctx), small(ctx), small(replace(ctx, seed=1))
    weights = [supernet.model.network.stem.conv.weight for supernet in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
