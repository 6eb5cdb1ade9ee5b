"""Our own: networks layer by layer, masked and binary convolutions on our kernels, others in PyTorch's fastest dense form.

graph: the operations of a network; fusion: which run as one; forms, binary: how a layer can be computed;
steps: each operation in its fastest form; memory: where the values live; execution: one forward pass.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping

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
from compressbench.runtimes.native.forms import BlockMask
from compressbench.runtimes.native.fusion import fuse
from compressbench.runtimes.native.graph import Graph, trace
from compressbench.runtimes.native.steps import fastest_steps


class NativeRuntime(Runtime):
    """Batch norms folded, activations and residual sums fused into the convolutions, buffers planned once.

    Every masked convolution runs on the block-sparse kernel or as a dense one, whichever a short trial finds faster.
    Binary convolutions leave the signs of what they compute for the next one, and the values where something else reads them.
    """

    name = "compressbench"

    def __init__(self) -> None:
        self.forms: Counter[str] = Counter()
        self.tiles: dict[str, set[str]] = defaultdict(set)

    def objection(self, compressed: nn.Module) -> str:
        """Only networks with masked or binary convolutions are timed, and only if no quantizer has to be simulated."""
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
        masks = {
            name: (layer.mask, layer.block or 1)
            for name, layer in model.named_modules()
            if isinstance(layer, MaskedConv2d) and layer.groups == 1
        }
        call = self._plan(model, masks, example)
        if len(example) == 1:
            return call
        batched, image = (self.forms, self.tiles), example[:1].clone()
        forms = [call, one_by_one(self._plan(model, masks, image), image, example)]
        alike = torch.allclose(forms[0](), forms[1](), rtol=1e-3, atol=1e-4)  # images may depend on each other
        best = fastest({form: form for form in forms}, warmup=1, rounds=3) if alike else call
        if best is call:
            self.forms, self.tiles = batched
        return best

    def _plan(self, model: nn.Module, masks: Mapping[str, BlockMask], example: Tensor) -> Call:
        """A forward pass on this batch."""
        module = fold_norms_into_linears(trace(pack_binary(deploy(model))), example)
        example = example.contiguous()
        graph = Graph(module, example)
        steps = fastest_steps(graph, fuse(graph), masks, torch.contiguous_format)
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
        }
