"""RigL: the layer densities, the updates, and what an update leaves alone."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from compressbench import storage
from compressbench.layers.masked import masked_layers
from compressbench.pruning.densities import kept_counts, random_positions
from compressbench.pruning.masks import apply_masks, kept_weights, prunable, removed_count
from compressbench.training import Hook, State, fit
from compressbench.training.checkpoint import Checkpoint, same_bits
from methods.baselines.rigl.method import (
    Rewiring,
    RigL,
    Schedule,
    drop,
    grow,
)
from tests.contexts import full_size_context, make_context


def rigl(**options: object) -> RigL:
    return RigL(RigL.Config(**options))


# ---- when, and how many


@pytest.mark.parametrize(("step", "share"), {0: 0.3, 100: 0.287032, 250: 0.225, 375: 0.15, 500: 0.075, 750: 0}.items())
def test_replaced_share_falls_as_a_cosine(step: int, share: float) -> None:
    assert Schedule(alpha=0.3, interval=100, end=750).fraction(step) == pytest.approx(share, abs=5e-7)


def test_updates_start_at_once_and_stop_before_the_end() -> None:
    schedule = RigL.Config().schedule(1000)
    assert [t for t in range(1000) if schedule.updates(t)] == list(range(0, 750, 100))


@pytest.mark.parametrize(("steps", "interval"), [(80, 10), (1000, 10), (1876, 18)])
def test_short_runs_update_more_often(steps: int, interval: int) -> None:
    assert RigL.Config(delta_t=None).schedule(steps).interval == interval


# ---- drop and grow


def test_drops_the_smallest_kept_weights_and_grows_where_the_gradient_is_largest() -> None:
    weight = torch.tensor([0.5, -0.1, 0.3, 0.0, 0.0, 0.0, 0.0])
    gradient = torch.tensor([9.0, 1.0, 9.0, -5.0, 0.5, 2.0, 0.1])
    mask = torch.tensor([1, 1, 1, 1, 0, 0, 0], dtype=torch.bool)
    kept = drop(weight, mask, 2)  # the kept 0 and -0.1
    assert kept.tolist() == [True, False, True, False, False, False, False]
    assert grow(gradient, kept, 2).nonzero().flatten().tolist() == [3, 5], "a dropped weight may come back"


def test_nothing_is_dropped_or_grown_when_the_count_is_zero() -> None:
    mask = torch.tensor([True, False, True])
    assert torch.equal(drop(torch.zeros(3), mask, 0), mask)
    assert not grow(torch.ones(3), mask, 0).any()


class Watch(Hook):
    """What every update is given and what it leaves. Goes in front of the `Rewiring`."""

    def __init__(self, schedule: Schedule):
        self.schedule = schedule
        self.before: list[dict[str, Tensor]] = []
        self.gradients: list[dict[str, Tensor]] = []
        self.after: list[dict[str, Tensor]] = []
        self.updates: list[int] = []

    def on_step_start(self, state: State) -> None:
        if self.schedule.updates(state.step):
            self.updates.append(state.step)
            self.before.append(self._snapshot(state))

    def on_gradients(self, state: State) -> None:
        if self.schedule.updates(state.step):
            layers = masked_layers(state.model)
            self.gradients.append({name: layer.weight.grad.clone() for name, layer in layers.items()})

    def on_step_end(self, state: State) -> None:
        if self.schedule.updates(state.step):
            self.after.append(self._snapshot(state))

    @staticmethod
    def _snapshot(state: State) -> dict[str, Tensor]:
        """Parameters, masks, statistics, and the momentum of every parameter that has one."""
        kept = {name: state.optimizers[0].state.get(p, {}) for name, p in state.model.named_parameters()}
        momentum = {f"{name}.momentum": s["momentum_buffer"].clone() for name, s in kept.items() if s}
        return {name: t.clone() for name, t in state.model.state_dict().items()} | momentum


def sparse_network(density: float = 0.3) -> nn.Module:
    """A small convolutional network with masks at that density, its last layer dense."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(72, 3)
    )
    shapes = {name: layer.weight.shape for name, layer in prunable(model).items()}
    kept = {name: round(density * shape.numel()) for name, shape in shapes.items()} | {"5": 216}
    return apply_masks(model, random_positions(shapes, kept, torch.Generator().manual_seed(0)))


def train(model: nn.Module, *hooks: Hook, epochs: int = 3, checkpoint: Checkpoint | None = None) -> nn.Module:
    def batch(step: int) -> tuple[Tensor, Tensor]:
        random = torch.Generator().manual_seed(step)
        return torch.randn(8, 2, 7, 7, generator=random), torch.randint(3, (8,), generator=random)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    return fit(
        model, batch, lambda m, b: F.cross_entropy(m(b[0]), b[1]), [optimizer],
        epochs=epochs, steps_per_epoch=4, seed=0, hooks=hooks, checkpoint=checkpoint,
    )  # fmt: skip


SHORT = Schedule(alpha=0.5, interval=3, end=9)


@pytest.fixture(scope="module")
def watched() -> Watch:
    watch = Watch(SHORT)
    train(sparse_network(), watch, Rewiring(SHORT))
    assert watch.updates == [0, 3, 6]
    return watch


def test_an_update_drops_by_magnitude_grows_by_gradient_and_keeps_the_count(watched: Watch) -> None:
    for step, before, after, gradients in zip(
        watched.updates, watched.before, watched.after, watched.gradients, strict=True
    ):
        for name in ("0", "3"):
            old, new, weight = before[f"{name}.mask"], after[f"{name}.mask"], before[f"{name}.weight"].abs()
            count = int(SHORT.fraction(step) * int(old.sum()))
            assert count > 0 and int(new.sum()) == int(old.sum())
            kept = drop(before[f"{name}.weight"], old, count)
            assert int(kept.sum()) == int(old.sum()) - count
            assert weight[old & ~kept].max() <= weight[kept].min()
            grown, g = new & ~kept, gradients[name].abs()
            assert int(grown.sum()) == count
            assert g[grown].min() >= g[~new].max()


def test_grown_weights_start_at_zero_without_momentum(watched: Watch) -> None:
    for step, before, after in zip(watched.updates, watched.before, watched.after, strict=True):
        for name in ("0", "3"):
            old, new = before[f"{name}.mask"], after[f"{name}.mask"]
            kept = drop(before[f"{name}.weight"], old, int(SHORT.fraction(step) * int(old.sum())))
            assert (new & ~kept).any()
            assert torch.count_nonzero(after[f"{name}.weight"][~kept]) == 0
            if step:
                assert torch.count_nonzero(after[f"{name}.weight.momentum"][~kept]) == 0
                assert torch.count_nonzero(before[f"{name}.weight.momentum"][old & ~kept]) > 0


def test_an_update_takes_the_place_of_the_optimiser_step(watched: Watch) -> None:
    for before, after in zip(watched.before, watched.after, strict=True):
        for name in ("0", "3"):
            untouched = before[f"{name}.mask"] & (after[f"{name}.weight"] != 0)
            for kind in {f"{name}.weight", f"{name}.weight.momentum"} & before.keys():
                assert torch.equal(after[kind][untouched], before[kind][untouched])
        others = [k for k in before if k.split(".")[0] in "15" and "running" not in k and "tracked" not in k]
        assert {"1.weight", "1.bias", "5.weight", "5.bias", "5.mask"} <= set(others)
        assert all(torch.equal(after[k], before[k]) for k in [*others, "3.bias"])


def test_a_grown_weight_starts_to_move_with_the_next_step() -> None:
    schedule = Schedule(alpha=0.5, interval=4, end=1)
    watch = Watch(schedule)
    model = train(sparse_network(), watch, Rewiring(schedule), epochs=1)
    grown = watch.after[0]["3.mask"] & (watch.after[0]["3.weight"] == 0)
    assert torch.count_nonzero(model[3].weight[grown]) == int(grown.sum()) > 0


def test_the_gradient_of_open_masks_is_that_of_the_effective_weight() -> None:
    """... of the unchanged network: opening the masks changes no output."""
    model, rewiring = sparse_network(), Rewiring(SHORT)
    images = torch.randn(8, 2, 7, 7)
    expected = model(images)
    plain = model[3].effective_weight().detach().requires_grad_()
    features = model[2](model[1](F.conv2d(images, model[0].effective_weight())))
    model[5](model[4](F.conv2d(features, plain, model[3].bias))).square().sum().backward()
    masks = {name: layer.mask.clone() for name, layer in masked_layers(model).items()}
    model.zero_grad()
    rewiring.on_step_start(State(model, [], 1, 12))
    found = model(images)
    found.square().sum().backward()
    assert torch.equal(found, expected)
    assert torch.allclose(model[3].weight.grad, plain.grad, rtol=1e-5, atol=1e-6)
    assert torch.count_nonzero(plain.grad[~masks["3"]]) == int((~masks["3"]).sum())


def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    class Kill(Hook):
        def on_step_end(self, state: State) -> None:
            if state.step == 6:  # after the update of the second epoch
                raise KeyboardInterrupt

    whole = train(sparse_network(), Rewiring(SHORT), checkpoint=Checkpoint(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        train(sparse_network(), Rewiring(SHORT), Kill(), checkpoint=Checkpoint(tmp_path / "killed"))
    resumed = train(sparse_network(), Rewiring(SHORT), checkpoint=Checkpoint(tmp_path / "killed"))
    assert same_bits(whole.state_dict(), resumed.state_dict())


# ---- the stage


def test_kept_count_of_every_layer_is_constant_and_removed_weights_are_zero(data_root: Path, tmp_path: Path) -> None:
    ctx = make_context(data_root, tmp_path, epochs=2)
    method = rigl(sparsity=0.9, delta_t=5)
    model = method.compress(ctx)
    layers = masked_layers(model)
    shapes = {name: layer.weight.shape for name, layer in layers.items()}
    assert {n: int(la.mask.sum()) for n, la in layers.items()} == kept_counts(shapes, 0.9, "erk")
    total = sum(shape.numel() for shape in shapes.values())
    assert kept_weights(model) == total - removed_count(total, 0.9)
    start = random_positions(shapes, kept_counts(shapes, 0.9, "erk"), ctx.generator("rigl"))
    assert any(not torch.equal(start[name], layer.mask) for name, layer in layers.items())
    assert all(torch.count_nonzero(layer.weight[~layer.mask]) == 0 for layer in layers.values())
    assert all(ctx.records[f"density_{n}"] == pytest.approx(float(la.mask.float().mean())) for n, la in layers.items())
    storage.save_model(model, tmp_path / "stored")
    images = ctx.data.test.images[:8]
    assert torch.equal(storage.load_model(tmp_path / "stored")(images), model(images))


def test_the_classifier_stays_dense_on_request(data_root: Path, tmp_path: Path) -> None:
    ctx = make_context(data_root, tmp_path, steps_per_epoch=1)
    model = rigl(sparsity=0.9, keep_last=True).compress(ctx)
    assert "classifier" not in masked_layers(model) and "stem.conv" in masked_layers(model)


@pytest.mark.parametrize(
    "options", [{"sparsity": 0}, {"sparsity": 1}, {"alpha": 0}, {"delta_t": 0}, {"end": 1.5}, {"distribution": "even"}]
)
def test_wrong_hyper_parameters_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RigL.Config(**options)


def test_an_update_and_a_step_at_full_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoint, "save", lambda *_: None)  # seconds of writing that other tests cover
    ctx = full_size_context(tmp_path, "imagenet/resnet50", "rigl", "p90")
    two_steps = ctx.recipes.scratch.model_copy(update={"steps_per_epoch": 2})
    ctx.pair = ctx.pair.model_copy(update={"scratch": two_steps})
    model = rigl(sparsity=0.9).compress(ctx)
    layers = masked_layers(model)
    kept = kept_counts({name: layer.weight.shape for name, layer in layers.items()}, 0.9, "erk")
    assert {name: int(layer.mask.sum()) for name, layer in layers.items()} == kept
    assert kept_weights(model) == 25502912 - 22952620
    start = dict(ctx.build().named_parameters())
    assert all(not torch.equal(p, start[name]) for name, p in model.named_parameters())
