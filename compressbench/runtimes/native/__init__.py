"""Our own: networks layer by layer, masked and binary convolutions on our kernels, others in PyTorch's fastest dense form.

graph: the operations of a network; fusion: which run as one; forms, packed_layers, integers: how a layer can be computed;
steps: each operation in its fastest form; memory: where the values live; execution: one forward pass.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from compressbench.kernels import native
from compressbench.kernels.autotune import Call
from compressbench.layers.binary import BinaryLayer
from compressbench.layers.deployment import deploy, simulated_kinds
from compressbench.layers.masked import MaskedConv2d
from compressbench.runtimes.base import Runtime
from compressbench.runtimes.native.execution import Execution
from compressbench.runtimes.native.fusion import fuse
from compressbench.runtimes.native.graph import Graph, trace
from compressbench.runtimes.native.integers import has_integer_blocks, insert_codes, integer_steps, take_integers
from compressbench.runtimes.native.packed_layers import PackedLayer, pack_binary
from compressbench.runtimes.native.steps import Step, fastest_steps


class NativeRuntime(Runtime):
    """Batch norms folded, activations and residual sums fused into the convolutions, buffers planned once.

    Every masked convolution runs on the block-sparse kernel or as a dense one, whichever a short trial finds faster. A
    network with binary convolutions runs in channels_last, which their kernel reads and writes. One of quantized layers with
    1xN blocks runs in int8, on the method's own grids.
    """

    name = "compressbench"

    def __init__(self) -> None:
        self.integer = False
        self.forms: Counter[str] = Counter()
        self.tiles: dict[str, set[str]] = defaultdict(set)

    def objection(self, compressed: nn.Module) -> str:
        """Only networks with masked, binary or rounded blocks are timed, and only if no quantizer has to be simulated."""
        if native.is_built() and has_integer_blocks(compressed):
            return ""
        binary = {layer.kind for layer in compressed.modules() if isinstance(layer, BinaryLayer)}  # type: ignore[attr-defined]
        if kinds := [kind for kind in simulated_kinds(compressed) if kind not in binary]:
            return f"no kernel here computes {', '.join(kinds)}"
        ours = any(isinstance(layer, MaskedConv2d | BinaryLayer) for layer in compressed.modules())
        return "" if ours else "nothing is masked or binary"

    def prepare(self, model: nn.Module, example: Tensor) -> Call:
        """Trace, choose the form of every layer, and plan the memory."""
        self.integer = native.is_built() and has_integer_blocks(model)
        if self.integer:
            return self._in_integers(model, example)
        masks = {
            name: (layer.mask, layer.block or 1)
            for name, layer in model.named_modules()
            if isinstance(layer, MaskedConv2d) and layer.groups == 1
        }
        module = trace(pack_binary(deploy(model)))
        binary = sum(isinstance(layer, PackedLayer) for layer in module.modules())
        layout = torch.channels_last if binary else torch.contiguous_format
        example = example.contiguous(memory_format=layout)
        graph = Graph(module, example)
        steps = fastest_steps(graph, fuse(graph), masks, layout)
        self._note(steps, {"binary": binary} if binary else {})
        return Execution(graph, steps, example).run

    def _in_integers(self, model: nn.Module, example: Tensor) -> Call:
        network = deploy(model)
        layers = take_integers(network)
        module = trace(network)
        codes = insert_codes(module, layers)
        graph = Graph(module, example.contiguous())
        chains = fuse(graph)
        known = integer_steps(graph, chains, layers, codes)
        steps = fastest_steps(graph, chains, {}, torch.contiguous_format, known)
        self._note(steps, {})
        return Execution(graph, steps, example.contiguous()).run

    def _note(self, steps: Sequence[Step], others: Mapping[str, int]) -> None:
        self.forms = Counter(others)
        self.forms.update(step.form for step in steps if step.form)
        self.tiles = defaultdict(set)
        for step in steps:
            if step.tile:
                self.tiles[step.form].add(step.tile)

    def describe(self) -> dict[str, str]:
        """How many convolutions run in which form, with which register tiles."""
        tiles = {form: f" (tile {' '.join(sorted(found))})" for form, found in self.tiles.items()}
        forms = ", ".join(f"{count} {form}{tiles.get(form, '')}" for form, count in self.forms.most_common())
        return {
            "library": f"compressbench kernels, torch {torch.__version__}",
            "isa": native.label(native.best_isa()),
            "layers": forms,
            **({"arithmetic": "int8"} if self.integer else {}),
        }
