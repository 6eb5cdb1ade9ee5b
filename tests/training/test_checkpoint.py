"""Checkpoints: what comes back, torn files, and damage that is named."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.training import State
from compressbench.training import checkpoint as module
from compressbench.training.checkpoint import Checkpoint, flatten, same_bits, unflatten


@pytest.mark.parametrize("file", ["latest.json", "slot0.json", "slot0.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "other"])
def test_deleting_a_damaged_checkpoint_helps(tmp_path: Path, file: str, damage: str) -> None:
    model = torch.nn.Linear(2, 2)
    state = State(model, [torch.optim.SGD(model.parameters(), lr=0.1)], epochs=2, steps_per_epoch=1, epoch=1)
    checkpoint = Checkpoint(tmp_path / "training")
    checkpoint.save(state, [{"loss": 1.0}])
    assert checkpoint.restore(state) == (2, [{"loss": 1.0}])
    (tmp_path / "training" / file).unlink()
    if damage != "missing":
        (tmp_path / "training" / file).write_bytes(b"" if damage == "empty" else b"[]")
    elif file == "latest.json":
        assert checkpoint.restore(state) == (0, [])
        return
    with pytest.raises(UserError, match=r"the checkpoint in .*training is damaged .*delete that folder"):
        checkpoint.restore(state)
    checkpoint.delete()
    assert checkpoint.restore(state) == (0, [])


def trained(steps: int, epoch: int = 0) -> State:
    """A run of so many steps of SGD with momentum and of Adam."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizers = [
        torch.optim.SGD(model[0].parameters(), lr=0.1, momentum=0.9),
        torch.optim.Adam(model[1].parameters(), lr=0.1),
    ]
    for step in range(steps):
        model(torch.randn(4, 3, generator=torch.Generator().manual_seed(step))).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return State(model, optimizers, epochs=9, steps_per_epoch=1, epoch=epoch)


def tensors_of(state: State) -> dict[str, Tensor]:
    """Of the model and of the optimisers' states, in order."""
    found: dict[str, Tensor] = {}
    flatten([state.model.state_dict(), *(optimizer.state_dict() for optimizer in state.optimizers)], found)
    return found


def test_models_and_optimisers_come_back_to_the_bit(tmp_path: Path) -> None:
    whole, fresh = trained(3, epoch=2), trained(0)
    assert not same_bits(whole.model.state_dict(), fresh.model.state_dict())
    Checkpoint(tmp_path).save(whole, [{"epoch": 2, "loss": 0.5}])
    assert Checkpoint(tmp_path).restore(fresh) == (3, [{"epoch": 2, "loss": 0.5}])
    assert same_bits(tensors_of(whole), tensors_of(fresh))
    rates = [[group["lr"] for o in state.optimizers for group in o.param_groups] for state in (whole, fresh)]
    assert rates[0] == rates[1]


@pytest.mark.parametrize("torn", ["slot1.safetensors", "slot1.json", "latest.json"])
def test_a_kill_while_the_second_epoch_is_written_leaves_the_first(
    torn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, first = Checkpoint(tmp_path), trained(1, epoch=0)
    checkpoint.save(first, [{"loss": 1.0}])
    for name in ("save_tensors", "write_json"):

        def write(path: Path, content: object, write=getattr(module, name)) -> None:  # type: ignore[no-untyped-def]
            if path.name == torn:
                raise KeyboardInterrupt
            write(path, content)

        monkeypatch.setattr(module, name, write)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(trained(2, epoch=1), [{"loss": 1.0}, {"loss": 0.9}])
    resumed = trained(0)
    assert checkpoint.restore(resumed) == (1, [{"loss": 1.0}])
    assert same_bits(tensors_of(resumed), tensors_of(first))


def test_no_more_than_two_epochs_are_kept(tmp_path: Path) -> None:
    for epoch in range(5):
        Checkpoint(tmp_path).save(trained(1, epoch), [])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"latest.json", "slot0.json", "slot0.safetensors", "slot1.json", "slot1.safetensors"}


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3)
    | st.lists(st.integers(-9, 9), max_size=3).map(torch.tensor),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text("a1./'", max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def plain(tree: object) -> object:
    """Tensors as tuples of their values, for comparisons."""
    if isinstance(tree, Tensor):
        return ("tensor", *tree.tolist())
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    return [plain(value) for value in tree] if isinstance(tree, list) else tree


@settings(deadline=None)
@given(TREES)
def test_any_nest_of_dicts_lists_and_tensors_comes_back_through_json(tree: object) -> None:
    """Also keys that are numbers, which JSON alone would turn into text, and a dict that has a key of ours.

    Numbers and their texts, or a path and its parts, are keys of different tensors.
    """
    one, two = torch.ones(1), torch.zeros(2)
    alike = {1: one, "1": two, "a/b": one, "a": {"b": two}}
    for content in (tree, {"tensor": tree}, {"items": tree, 3: [tree]}, alike):
        tensors: dict[str, Tensor] = {}
        text = json.dumps(flatten(content, tensors))
        assert plain(unflatten(json.loads(text), tensors)) == plain(content)
