"""Our own: networks layer by layer, masked and binary convolutions on our kernels, others in PyTorch's fastest dense form.

graph: the operations of a network; fusion: which run as one; forms, binary, integers: how a layer can be computed;
steps: each operation in its fastest form; memory: where the values live; execution: one forward pass.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compressbench.kernels import native
from compressbench.kernels.autotune import Call, fastest
from compressbench.layers.binary import BinaryLayer
from compressbench.layers.deployment import deploy, simulated_kinds
from compressbench.layers.folding import fold_norms_into_linears
from compressbench.layers.masked import MaskedConv2d
from compressbench.runtimes.base import Runtime
from compressbench.runtimes.native.binary import pack_binary
from compressbench.runtimes.native.execution import Execution, one_by_one
from compressbench.runtimes.native.fusion import fuse
from compressbench.runtimes.native.graph import Graph, trace
from compressbench.runtimes.native.integers import has_integer_blocks, insert_codes, integer_steps, take_integers
from compressbench.runtimes.native.steps import Step, fastest_steps


class NativeRuntime(Runtime):
    """Batch norms folded, activations and residual sums fused into the convolutions, buffers planned once.

    Every masked convolution runs on the block-sparse kernel or as a dense one, whichever a short trial finds faster.
    Binary convolutions leave the signs of what they compute for the next one, and the values where something else reads them.
    A network of quantized layers with 1xN blocks runs in int8, on the method's own grids.
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
        """Trace, choose the form of every layer, and plan the memory.

        A batch runs at once or image by image, whichever a short trial finds faster: the activations of many images do not
        fit the caches.
        """
        self.integer = native.is_built() and has_integer_blocks(model)
        plan = self._in_integers if self.integer else self._in_floats
        call = plan(model, example)
        if len(example) == 1:
            return call
        batched, image = (self.forms, self.tiles), example[:1].clone()
        forms = [call, one_by_one(plan(model, image), image, example)]
        alike = torch.allclose(forms[0](), forms[1](), rtol=1e-3, atol=1e-4)  # images may depend on each other
        best = fastest({form: form for form in forms}, warmup=1, rounds=3) if alike else call
        if best is call:
            self.forms, self.tiles = batched
        return best

    def _in_floats(self, model: nn.Module, example: Tensor) -> Call:
        masks = {
            name: (layer.mask, layer.block or 1)
            for name, layer in model.named_modules()
            if isinstance(layer, MaskedConv2d) and layer.groups == 1
        }
        example = example.contiguous()
        graph = Graph(fold_norms_into_linears(trace(pack_binary(deploy(model))), example), example)
        return self._planned(graph, fastest_steps(graph, fuse(graph), masks), example)

    def _in_integers(self, model: nn.Module, example: Tensor) -> Call:
        network, example = deploy(model), example.contiguous()
        layers = take_integers(network)
        module = trace(network)
        codes = insert_codes(module, layers)
        graph = Graph(module, example)
        chains = fuse(graph)
        return self._planned(
            graph, fastest_steps(graph, chains, {}, integer_steps(graph, chains, layers, codes)), example
        )

    def _planned(self, graph: Graph, steps: Sequence[Step], example: Tensor) -> Call:
        self.forms = Counter(step.form for step in steps if step.form)
        self.tiles = defaultdict(set)
        for step in steps:
            if step.tile:
                self.tiles[step.form].add(step.tile)
        return Execution(graph, steps, example).run

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
