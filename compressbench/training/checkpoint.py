"""Checkpoints at epoch boundaries, in safetensors and JSON, so that a killed run ends with the same bits."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compressbench.errors import UserError
from compressbench.files import read_json, write_json
from compressbench.storage import load_tensors, save_tensors
from compressbench.training.hooks import State


def flatten(tree: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """A JSON-able copy of nested dicts and lists; each tensor moves to `tensors` and leaves {"tensor": its path} behind."""
    if isinstance(tree, Tensor):
        tensors[path] = tree
        return {"tensor": path}
    if isinstance(tree, dict):
        return {"items": [[key, flatten(value, tensors, f"{path}/{key}")] for key, value in tree.items()]}
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
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def save(self, state: State, history: list[dict[str, float]]) -> None:
        """Store the end of `state.epoch`."""
        tensors: dict[str, Tensor] = {}
        content = {"model": state.model.state_dict(), "optimizers": [o.state_dict() for o in state.optimizers]}
        tree = flatten(content, tensors)
        slot = f"slot{state.epoch % 2}"
        save_tensors(self.folder / f"{slot}.safetensors", tensors)
        write_json(self.folder / f"{slot}.json", {"tree": tree, "history": history})
        write_json(self.folder / "latest.json", {"slot": slot, "epochs_done": state.epoch + 1})

    def restore(self, state: State) -> tuple[int, list[dict[str, float]]]:
        """Load the newest checkpoint into the model and the optimisers; returns (finished epochs, history)."""
        if not (self.folder / "latest.json").exists():
            return 0, []
        try:
            latest = read_json(self.folder / "latest.json")
            stored = read_json(self.folder / f"{latest['slot']}.json")
            content = unflatten(stored["tree"], load_tensors(self.folder / f"{latest['slot']}.safetensors"))
            state.model.load_state_dict(content["model"], strict=True)
            for optimizer, values in zip(state.optimizers, content["optimizers"], strict=True):
                optimizer.load_state_dict(values)
            return latest["epochs_done"], stored["history"]
        except (UserError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"the checkpoint in {self.folder} is damaged ({error}); delete that folder, and the stage starts anew."
            ) from error

    def delete(self) -> None:
        """Remove the folder, once the result is stored."""
        shutil.rmtree(self.folder, ignore_errors=True)


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two state dicts hold the same tensors, bit by bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
