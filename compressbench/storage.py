"""Models on disk: model.safetensors (tensors) + model.json (architecture, widths, compressed layers). No pickle."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

import compressbench.layers.all_layers  # noqa: F401  (registers every kind of compressed layer)
from compressbench import models
from compressbench.errors import UserError
from compressbench.files import read_json, write_bytes, write_json
from compressbench.layers.registry import LAYER_KINDS, CompressedLayer
from compressbench.models import Network


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Named tensors, contiguous and without shared storage, written atomically."""
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    write_bytes(path, save(plain))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; UserError names the file when it is missing or damaged."""
    if not path.exists():
        raise UserError(f"{path} does not exist; run the stage that writes it first.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or truncated ({error}); delete it and run its stage again.") from error


def describe(model: Network) -> dict[str, Any]:
    """What model.json holds: {"architecture", "arguments", "layers": {name: {"kind", "config"}}}."""
    layers = {
        name: {"kind": module.kind, "config": module.config()}
        for name, module in model.named_modules()
        if name and isinstance(module, CompressedLayer)
    }
    return {"architecture": model.spec.architecture, "arguments": model.spec.arguments, "layers": layers}


def save_model(model: Network, folder: Path) -> None:
    """Write model.safetensors, then model.json, into `folder`."""
    save_tensors(folder / "model.safetensors", model.state_dict())
    write_json(folder / "model.json", describe(model))


def rebuild(description: dict[str, Any]) -> Network:
    """The module tree of a description, freshly initialised."""
    model = models.build(description["architecture"], **description["arguments"])
    for name, layer in description["layers"].items():
        if layer["kind"] not in LAYER_KINDS:
            raise UserError(f"layer kind {layer['kind']!r} is unknown; known: {', '.join(sorted(LAYER_KINDS))}.")
        model.set_submodule(name, LAYER_KINDS[layer["kind"]].rebuild(model.get_submodule(name), layer["config"]))
    return model


def load_model(folder: Path) -> Network:
    """The model of `folder` in eval mode. UserError when a file is missing, damaged or does not fit the other."""
    description = read_json(folder / "model.json")
    tensors = load_tensors(folder / "model.safetensors")
    try:
        with torch.random.fork_rng(devices=[]):
            model = rebuild(description)
        model.load_state_dict(tensors, strict=True)
    except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder}: model.json and model.safetensors do not fit together ({error}); delete both and run their stage again."
        ) from error
    return model.eval()
