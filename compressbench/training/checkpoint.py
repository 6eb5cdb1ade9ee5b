"""Checkpoints of a training, in safetensors and JSON, so that a killed run ends with the same bits."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compressbench.errors import UserError
from compressbench.files import read_json, write_json
from compressbench.seeding import random_state, set_random_state
from compressbench.storage import load_tensors, save_tensors
from compressbench.training.hooks import Hook, State


def flatten(tree: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """A JSON-able copy of nested dicts and lists; each tensor moves to `tensors` and leaves {"tensor": its path} behind.

    Keys are texts or whole numbers, and stay what they are.
    """
    if isinstance(tree, Tensor):
        tensors[path] = tree
        return {"tensor": path}
    if isinstance(tree, dict):
        return {"items": [[key, flatten(value, tensors, f"{path}/{key!r}")] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        return [flatten(value, tensors, f"{path}/{i}") for i, value in enumerate(tree)]
    return tree


def unflatten(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `flatten` (tuples come back as lists)."""
    if isinstance(tree, dict):
        return (
            tensors[tree["tensor"]]
            if "tensor" in tree
            else {key: unflatten(value, tensors) for key, value in tree["items"]}
        )
    return [unflatten(value, tensors) for value in tree] if isinstance(tree, list) else tree


class Checkpoint:
    """The state of a training run in `folder`: two alternating slots, and a pointer that is written last.

    A kill at any moment leaves the pointer at a complete slot.

    Args:
        folder: of this training alone.
        steps: how often `after_step` stores the middle of an epoch; None: never.
        writes: False only restores: of several processes that train together, one writes.
    """

    def __init__(self, folder: Path, steps: int | None = None, writes: bool = True):
        self.folder, self.steps, self.writes = folder, steps, writes

    def save(self, state: State, history: list[dict[str, float]], hooks: Sequence[Hook] = ()) -> None:
        """Store the end of `state.epoch`."""
        self._write(_tensors_of(state, hooks), history, {"epochs_done": state.epoch + 1})

    def after_step(self, state: State, history: list[dict[str, float]], hooks: Sequence[Hook] = ()) -> None:
        """Store the middle of `state.epoch`, after every `steps` steps of the run."""
        done = state.step + 1
        if self.steps and done % self.steps == 0 and done < state.first_step(state.epoch + 1):
            epoch = {"total": state.total, "metrics": state.metrics, "random": random_state()}
            content = _tensors_of(state, hooks) | {"epoch": epoch}
            self._write(content, history, {"epochs_done": state.epoch, "steps_done": done})

    def _write(self, content: dict[str, Any], history: list[dict[str, float]], position: dict[str, int]) -> None:
        if not self.writes:
            return
        tensors: dict[str, Tensor] = {}
        tree = flatten(content, tensors)
        latest = self.folder / "latest.json"
        slot = "slot1" if latest.exists() and read_json(latest)["slot"] == "slot0" else "slot0"
        save_tensors(self.folder / f"{slot}.safetensors", tensors)
        write_json(self.folder / f"{slot}.json", {"tree": tree, "history": history})
        write_json(latest, {"slot": slot} | position)

    def restore(self, state: State, hooks: Sequence[Hook] = ()) -> tuple[int, list[dict[str, float]]]:
        """Load the newest checkpoint into the model, the optimisers and the hooks; returns (finished epochs, history).

        `state.step` is the step to go on with; in the middle of an epoch its sums and torch's generators are those of then.
        """
        if not (self.folder / "latest.json").exists():
            return 0, []
        try:
            latest = read_json(self.folder / "latest.json")
            stored = read_json(self.folder / f"{latest['slot']}.json")
            content = unflatten(stored["tree"], load_tensors(self.folder / f"{latest['slot']}.safetensors"))
            _load(content, state, hooks)
            done = latest["epochs_done"]
            state.step = latest.get("steps_done", state.first_step(done))
            return done, stored["history"]
        except (UserError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"the checkpoint in {self.folder} is damaged ({error}); delete that folder, and the stage starts anew."
            ) from error

    def delete(self) -> None:
        """Remove the folder, once the result is stored."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _tensors_of(state: State, hooks: Sequence[Hook]) -> dict[str, Any]:
    return {
        "model": state.model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in state.optimizers],
        "hooks": [{name: getattr(hook, name) for name in hook.kept} for hook in hooks if hook.kept],
    }


def _load(content: dict[str, Any], state: State, hooks: Sequence[Hook]) -> None:
    state.model.load_state_dict(content["model"], strict=True)
    for optimizer, values in zip(state.optimizers, content["optimizers"], strict=True):
        optimizer.load_state_dict(values)
    device = next((parameter.device for parameter in state.model.parameters()), None)
    for hook, values in zip((hook for hook in hooks if hook.kept), content["hooks"], strict=True):
        for name, value in values.items():
            setattr(hook, name, _moved(value, device))
    if "epoch" in content:
        state.total, state.metrics = content["epoch"]["total"], content["epoch"]["metrics"]
        set_random_state(content["epoch"]["random"])


def _moved(tree: Any, device: torch.device | None) -> Any:
    """Nested dicts and lists with their tensors on a device."""
    if isinstance(tree, dict):
        return {key: _moved(value, device) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_moved(value, device) for value in tree]
    return tree.to(device) if isinstance(tree, Tensor) else tree


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two state dicts hold the same tensors, bit by bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
