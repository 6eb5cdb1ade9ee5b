"""Whole networks layer by layer: masked and binary convolutions on our kernels, others in PyTorch's fastest dense form."""

import functools
import itertools
import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

from compressbench.compression.binary import BinaryLayer
from compressbench.compression.blocks import encode_bsr
from compressbench.compression.deploy import deploy, foldable_pairs, simulated_kinds
from compressbench.compression.folding import ModulesAsLeaves, scale_and_shift
from compressbench.compression.layers import MaskedConv2d
from compressbench.kernels import native
from compressbench.kernels.binary import BinaryConv2d
from compressbench.kernels.block_sparse import BLOCK_SIZES, INFINITY, BlockSparseConv2d
from compressbench.kernels.depthwise import KERNELS, STRIDES, DepthwiseConv2d
from compressbench.kernels.executors import Executor, Skip, executor
from compressbench.kernels.native import Isa
from compressbench.kernels.packed import packed_convolution
from compressbench.kernels.pooling import GlobalMean
from compressbench.kernels.trial import Call, fastest
from compressbench.models.resnet import PadShortcut

Action = Callable[[dict[fx.Node, Tensor]], None]
Own = BlockSparseConv2d | DepthwiseConv2d | GlobalMean
Masks = dict[str, tuple[Tensor, int]]
Form = Callable[..., Tensor]
"""(input, [what is added to the output]) -> output, all NCHW."""

CLIPS: dict[Any, tuple[float, float]] = {
    nn.ReLU: (0, INFINITY), nn.ReLU6: (0, 6), F.relu: (0, INFINITY), F.relu6: (0, 6), torch.relu: (0, INFINITY),
}  # fmt: skip
ADDITIONS = (operator.add, operator.iadd, torch.add)


@executor
class NativeNetwork(Executor):
    """Batch norms folded, activations and residual sums fused into the convolutions, buffers planned once.

    Every masked convolution runs on the block-sparse kernel or as a dense one, whichever a short trial finds faster. A
    network with binary convolutions runs in channels_last, which their kernel reads and writes.
    """

    name = "compressbench"

    def __init__(self) -> None:
        self.forms: Counter[str] = Counter()
        self.tiles: dict[str, set[str]] = {}

    def objection(self, compressed: nn.Module) -> str:
        """Only masked and binary convolutions are worth it, and only if no quantizer has to be simulated."""
        binary = {layer.kind for layer in compressed.modules() if isinstance(layer, BinaryLayer)}  # type: ignore[attr-defined]
        if kinds := [kind for kind in simulated_kinds(compressed) if kind not in binary]:
            return f"no kernel here computes {', '.join(kinds)}"
        ours = any(isinstance(layer, MaskedConv2d | BinaryLayer) for layer in compressed.modules())
        return "" if ours else "nothing is masked or binary"

    def prepare(self, model: nn.Module, example: Tensor) -> Call:
        """Trace, plan the buffers, and choose the form of every layer."""
        masks = {
            name: (layer.mask, layer.block or 1)
            for name, layer in model.named_modules()
            if isinstance(layer, MaskedConv2d) and layer.groups == 1
        }
        plan = _Plan(_pack_binary(deploy(model)), masks, example)
        self.forms, self.tiles = plan.forms, plan.tiles
        return plan.run

    def describe(self) -> dict[str, str]:
        """How many convolutions run in which form, with which register tiles."""
        tiles = {form: f" (tile {' '.join(sorted(found))})" for form, found in self.tiles.items()}
        forms = ", ".join(f"{count} {form}{tiles.get(form, '')}" for form, count in self.forms.most_common())
        return {
            "library": f"compressbench kernels, torch {torch.__version__}",
            "isa": native.label(native.best_isa()),
            "layers": forms,
        }


@dataclass
class _Fused:
    """A convolution with what follows it: a residual sum, a clip. It runs in the place of `last`."""

    layer: str
    source: fx.Node
    last: fx.Node
    absorbed: list[fx.Node]
    residual: fx.Node | None = None
    clip: tuple[float, float] | None = None


@dataclass
class _Step:
    """Computes the value of `node` from the values of `inputs`."""

    node: fx.Node
    inputs: list[fx.Node]
    compute: Callable[[list[Tensor]], Tensor]
    is_convolution: bool = False
    planned: Own | None = None
    done: list[fx.Node] = field(default_factory=list)
    """Values that nothing reads any more."""


class _Plan:
    def __init__(self, model: nn.Module, masks: Masks, example: Tensor) -> None:
        try:
            self._module = fx.GraphModule(model, ModulesAsLeaves().trace(model))
        except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
            raise Skip(f"the network cannot be traced: {error}") from error
        binary = sum(isinstance(layer, _PackedBinary) for layer in self._module.modules())
        self._layout = torch.channels_last if binary else torch.contiguous_format
        self._example, self._masks = example.contiguous(memory_format=self._layout), masks
        ShapeProp(self._module).propagate(self._example)
        self.forms: Counter[str] = Counter({"binary": binary} if binary else {})
        self.tiles: dict[str, set[str]] = defaultdict(set)
        nodes = list(self._module.graph.nodes)
        self._alias: dict[fx.Node, fx.Node] = {}
        fused = self._fuse(nodes)
        absorbed = {node for chain in fused for node in chain.absorbed}
        by_last = {chain.last: chain for chain in fused}
        self._input = next(node for node in nodes if node.op == "placeholder")
        self._output = self._resolve(next(node for node in nodes if node.op == "output").args[0])  # type: ignore[arg-type]
        compute = [n for n in nodes if n.op.startswith("call_") and n not in self._alias]
        wanted = [(n, by_last.get(n)) for n in compute if n in by_last or n not in absorbed]
        self._steps = [self._convolution(chain) if chain else self._other(node) for node, chain in wanted]
        self._free_values()
        self._views: dict[fx.Node, Tensor] = {}
        self._actions = self._link(self._share_buffers())

    def run(self) -> Tensor:
        """One forward pass."""
        values = {self._input: self._example, **self._views}
        for action in self._actions:
            action(values)
        return values[self._output]

    def _resolve(self, node: fx.Node) -> fx.Node:
        while node in self._alias:
            node = self._alias[node]
        return node

    def _module_of(self, node: fx.Node) -> nn.Module | None:
        return self._module.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _fuse(self, nodes: list[fx.Node]) -> list[_Fused]:
        """Follow every convolution through identities, one sum and one clip, as long as it has one reader."""
        for node in nodes:
            if isinstance(self._module_of(node), nn.Identity | nn.Dropout):
                self._alias[node] = node.args[0]  # type: ignore[assignment]
        chains: list[_Fused] = []
        taken: set[fx.Node] = set()
        for node in nodes:
            if not isinstance(self._module_of(node), nn.Conv2d):
                continue
            chain = _Fused(str(node.target), self._resolve(node.args[0]), node, [node])  # type: ignore[arg-type]
            at = node
            while chain.clip is None and len(at.users) == 1:
                at = next(iter(at.users))
                if at in taken:
                    break
                clip = CLIPS.get(type(self._module_of(at)) if at.op == "call_module" else at.target)
                if clip is not None:
                    chain.clip = clip
                elif at.op == "call_function" and at.target in ADDITIONS and chain.residual is None:
                    others = [arg for arg in at.args if self._resolve(arg) is not self._resolve(chain.last)]  # type: ignore[arg-type]
                    if len(others) != 1 or not isinstance(others[0], fx.Node) or _shape(others[0]) != _shape(at):
                        break
                    chain.residual = self._resolve(others[0])
                elif at not in self._alias:
                    break
                chain.absorbed.append(at)
                if at not in self._alias:
                    chain.last = at
            taken.update(chain.absorbed)
            chains.append(chain)
        return chains

    def _convolution(self, chain: _Fused) -> _Step:
        layer = self._module.get_submodule(chain.layer)
        assert isinstance(layer, nn.Conv2d)
        nodes = [node for node in (chain.source, chain.residual) if node is not None]
        values = [torch.randn(_shape(node)).contiguous(memory_format=self._layout) for node in nodes]
        x = values[0]
        clip = chain.clip or (-INFINITY, INFINITY)
        forms = dict(dense_forms(layer, x, clip, self._layout))
        own = own_forms(layer, self._masks.get(chain.layer), x, clip)
        fits = self._layout is torch.contiguous_format and (chain.residual is None or "depthwise" not in own)
        forms |= own if fits else {}
        name = fastest({name: _as_run(form, values, torch.empty(_shape(chain.last))) for name, form in forms.items()})
        self.forms[name] += 1
        form = forms[name]
        if isinstance(form, BlockSparseConv2d) and form.tile:
            self.tiles[name].add(form.tile)
        planned = form if isinstance(form, BlockSparseConv2d | DepthwiseConv2d) and form.isa is not Isa.TORCH else None
        return _Step(chain.last, nodes, lambda values: form(*values), True, planned)

    def _other(self, node: fx.Node) -> _Step:
        """Any other operation, as PyTorch computes it."""
        inputs = [self._resolve(n) for n in node.all_input_nodes]
        originals = node.all_input_nodes

        def compute(values: list[Tensor]) -> Tensor:
            known = dict(zip(originals, values, strict=True))
            args = fx.node.map_arg(node.args, known.__getitem__)
            kwargs = fx.node.map_arg(node.kwargs, known.__getitem__)
            if node.op == "call_module":
                return module(*args, **kwargs)  # type: ignore[misc]
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)  # type: ignore[no-any-return]
            return node.target(*args, **kwargs)  # type: ignore[operator,no-any-return]

        module = self._module_of(node)
        planned = None
        if module is not None and self._layout is torch.contiguous_format:
            planned = own_operation(module, _shape(inputs[0])) if native.is_built() else None
            if isinstance(module, nn.MaxPool2d):
                module = _fastest_pool(module, torch.randn(_shape(inputs[0])))
        return _Step(node, inputs, compute, planned=planned)

    def _free_values(self) -> None:
        """Note after which step each value is read no more: its memory then serves the next one of its size."""
        last = {node: step for step in self._steps for node in [*step.inputs, step.node]}
        for node, step in last.items():
            if node is not self._output and node is not self._input:
                step.done.append(node)

    def _share_buffers(self) -> dict[fx.Node, Tensor]:
        """Give every operation on our kernels an output buffer, again and again the same ones."""
        # What PyTorch reads may live on in a view of it.
        seen = {node for step in self._steps if not (step.is_convolution or step.planned) for node in step.inputs}
        owned: dict[fx.Node, Tensor] = {}
        free: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for step in self._steps:
            if step.planned is not None:
                shape = _shape(step.node)
                owned[step.node] = free[shape].pop() if free[shape] else torch.empty(shape)
            for node in step.done:
                if node in owned and node not in seen:
                    free[_shape(node)].append(owned[node])
        return owned

    def _link(self, owned: dict[fx.Node, Tensor]) -> list[Action]:
        """What `run` does: neighbouring operations on our kernels as one call, others as they are, views not at all.

        Between two calls, Python and PyTorch take longer than a small layer: their code is no longer in the cache.
        """
        place = dict(owned)
        left = []
        for step in self._steps:
            if step.planned is not None:  # reads at addresses that are fixed now
                place |= {n: torch.empty(_shape(n)) for n in step.inputs if n not in place and n is not self._input}
            elif (view := _view(step, place)) is not None:
                place[step.node] = self._views[step.node] = view
                continue
            left.append(step)
        place[self._input] = self._example
        actions: list[Action] = []
        for ours, group in itertools.groupby(left, lambda step: step.planned is not None):
            steps = list(group)
            if ours:
                calls = []
                for step in steps:
                    x, *residual = (place[node] for node in step.inputs)
                    calls.append(step.planned.step(x, place[step.node], *residual))  # type: ignore[union-attr]
                call = native.program(native.best_isa(), calls)
                actions.append(functools.partial(_run_program, call, {s.node: place[s.node] for s in steps}))
            else:
                actions += [functools.partial(_run_step, step, place.get(step.node)) for step in steps]
        return actions


def _view(step: _Step, place: dict[fx.Node, Tensor]) -> Tensor | None:
    """The result of an operation that only views an input with a place; None of one that computes, be it in place."""
    if len(step.inputs) != 1 or step.inputs[0] not in place:
        return None
    source = place[step.inputs[0]]
    before = source.normal_().clone()
    value = step.compute([source])
    is_view = value.data_ptr() == source.data_ptr() and value.is_contiguous() and torch.equal(source, before)
    return value if is_view else None


def _run_program(call: Callable[[], None], results: dict[fx.Node, Tensor], values: dict[fx.Node, Tensor]) -> None:
    call()
    values.update(results)


def _run_step(step: _Step, place: Tensor | None, values: dict[fx.Node, Tensor]) -> None:
    result = step.compute([values[node] for node in step.inputs])
    values[step.node] = result if place is None else place.copy_(result)
    for node in step.done:
        values.pop(node, None)


def own_operation(module: nn.Module, shape: torch.Size) -> Own | None:
    """A layer other than a convolution on our kernels, for inputs of this shape; None where PyTorch is as good."""
    if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
        return GlobalMean(shape[1:])
    if isinstance(module, PadShortcut):  # a 1x1 convolution that copies
        weight = F.pad(torch.eye(shape[1]), (0, 0, module.front, module.back))[:, :, None, None]
        return BlockSparseConv2d(encode_bsr(weight, weight > 0, 1), None, shape[1:], stride=module.stride)
    if isinstance(module, nn.Linear) and len(shape) == 2:
        weight = module.weight[:, :, None, None]
        blocks = encode_bsr(weight, torch.ones_like(weight, dtype=torch.bool), _block_size(len(weight)))
        own, x = BlockSparseConv2d(blocks, module.bias, (shape[1], 1, 1)), torch.randn(*shape, 1, 1)
        forms: dict[BlockSparseConv2d | None, Call] = {
            own: _as_run(own, [x], torch.empty(1, len(weight))),
            None: functools.partial(module, x.flatten(1)),
        }
        return fastest(forms)
    return None


def _as_run(form: Form, values: list[Tensor], out: Tensor) -> Call:
    """What a trial times: the form as `run` calls it."""
    if isinstance(form, BlockSparseConv2d | DepthwiseConv2d) and form.isa is not Isa.TORCH:
        return native.program(form.isa, [form.step(values[0], out, *values[1:])])
    return functools.partial(form, *values)


def _block_size(channels: int) -> int:
    return next(n for n in (16, 8, 4, 2, 1) if channels % n == 0)


def _fastest_pool(pool: nn.MaxPool2d, x: Tensor) -> nn.Module:
    """PyTorch vectorises max pooling in channels_last only: on large images that is worth two changes of layout."""
    there = _ChannelsLast(pool)
    return fastest({module: functools.partial(module, x) for module in (pool, there)})


class _ChannelsLast(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._module = module

    def forward(self, x: Tensor) -> Tensor:
        y = self._module(x.contiguous(memory_format=torch.channels_last))
        return y.contiguous()  # type: ignore[no-any-return]


class _PackedBinary(nn.Module):
    """A binary convolution, and the batch norm after it, on the kernel; planned for the first input that it gets."""

    def __init__(self, layer: Any, norm: Any) -> None:
        super().__init__()
        self._form, self._stride, self._padding = layer.binary_form(), layer.stride[0], layer.padding[0]
        if {*layer.dilation, layer.groups} != {1} or len({*layer.stride}) > 1 or len({*layer.padding}) > 1:
            raise Skip("the binary kernel knows neither groups nor dilation nor two different strides or paddings")
        if norm is not None:
            scale, bias = scale_and_shift(norm, self._form.bias)
            self._form = self._form._replace(scale=self._form.scale * scale, bias=bias)
        self._planned: BinaryConv2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[1, C, H, W] -> the same in channels_last."""
        if self._planned is None:
            bits, scale, bias, encoding, _ = self._form
            geometry: Any = {"stride": self._stride, "padding": self._padding, "encoding": encoding}
            self._planned = BinaryConv2d(bits, scale, bias, x.shape[2:], **geometry)
        if self._form.centred:
            x = x - x.mean((1, 2, 3), keepdim=True)
        return self._planned(x.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2)


def _pack_binary(model: nn.Module) -> nn.Module:
    """Put the kernel in the place of every binary convolution, in place."""
    norms = dict(foldable_pairs(model))
    for name, layer in list(model.named_modules()):
        if isinstance(layer, BinaryLayer):
            norm = norms.get(name)
            model.set_submodule(name, _PackedBinary(layer, norm and model.get_submodule(norm)))
            if norm is not None:
                model.set_submodule(norm, nn.Identity())
    return model


def own_forms(
    layer: nn.Conv2d, masked: tuple[Tensor, int] | None, x: Tensor, clip: tuple[float, float]
) -> dict[str, Own]:
    """The layer on our kernels, by name; empty where they do not know its geometry. A depthwise one takes no residual.

    masked: (mask, N) of a layer with 1xN blocks. A layer without runs on the same kernel with all its blocks, which is often
    faster than the dense libraries, too.
    """
    kernel, stride, padding = layer.kernel_size, layer.stride, layer.padding
    if not isinstance(padding, tuple) or layer.padding_mode != "zeros" or set(layer.dilation) != {1}:
        return {}
    if kernel[0] != kernel[1] or stride[0] != stride[1] or padding[0] != padding[1] or not 0 <= padding[0] < kernel[0]:
        return {}
    geometry: Any = {"stride": stride[0], "padding": padding[0], "clip": clip}
    if layer.groups > 1:
        depthwise = layer.groups == layer.in_channels == layer.out_channels
        if not depthwise or kernel[0] not in KERNELS or stride[0] not in STRIDES:
            return {}
        return {"depthwise": DepthwiseConv2d(layer.weight, layer.bias, x.shape[1:], **geometry)}
    whole = torch.ones_like(layer.weight, dtype=torch.bool), _block_size(layer.out_channels)
    mask, n = masked or whole
    if n not in BLOCK_SIZES:
        return {}
    name = f"block-sparse 1x{n}" if masked else "dense blocks"
    blocks = encode_bsr(layer.weight, mask, n)
    return {name: BlockSparseConv2d(blocks, layer.bias, x.shape[1:], kernel=kernel[0], **geometry).tune()}


def dense_forms(
    layer: nn.Conv2d, x: Tensor, clip: tuple[float, float], layout: torch.memory_format
) -> Iterable[tuple[str, Form]]:
    """The ways in which torch convolves x, in and out in this layout: as it is, packed for oneDNN, as a matrix product."""
    bounds = None if clip == (-INFINITY, INFINITY) else clip

    def finish(y: Tensor, residual: Tensor | None = None) -> Tensor:
        if residual is not None:
            y.add_(residual)
        if bounds is not None:
            y.clamp_(*bounds) if bounds[1] < INFINITY else y.relu_()
        return y

    yield "dense", lambda x, *residual: finish(layer(x), *residual)
    if isinstance(layer.padding, tuple):
        geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
        packed = packed_convolution(layer.weight, layer.bias, x.shape, *geometry)
        if packed is not None:
            yield "dense packed", lambda x, *residual: finish(packed(x).contiguous(memory_format=layout), *residual)
    if layout is torch.channels_last:
        return
    if layer.groups == 1 and {*layer.kernel_size, *layer.stride} == {1} and set(layer.padding) == {0}:
        matrix = layer.weight.detach().flatten(1)
        column = torch.zeros(len(matrix), 1) if layer.bias is None else layer.bias.detach()[:, None]

        def product(x: Tensor, *residual: Tensor) -> Tensor:
            y = torch.addmm(column, matrix, x.flatten(2)[0])
            return finish(y.view(1, -1, *x.shape[2:]), *residual)

        yield "dense GEMM", product


def _shape(node: fx.Node) -> torch.Size:
    return node.meta["tensor_meta"].shape  # type: ignore[no-any-return]
