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
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata
from torch.nn import functional as F

from compressbench.compression.binary import BinaryLayer
from compressbench.compression.blocks import encode_bsr
from compressbench.compression.deploy import deploy, foldable_pairs, simulated_kinds
from compressbench.compression.folding import ModulesAsLeaves, only_argument, scale_and_shift
from compressbench.compression.layers import MaskedConv2d
from compressbench.compression.replaceable import (
    CONVOLUTION,
    LINEAR,
    SIZES,
    Replaceable,
    equal_pair,
    numbers,
    one_of,
)
from compressbench.kernels import native
from compressbench.kernels.autotune import Call, fastest
from compressbench.kernels.block_sparse import BLOCK_SIZES, INFINITY, BlockSparseConv2d
from compressbench.kernels.depthwise import KERNELS, STRIDES, DepthwiseConv2d
from compressbench.kernels.native import Isa
from compressbench.kernels.onednn import packed_convolution
from compressbench.kernels.packed_binary import PackedBinaryConv2d
from compressbench.kernels.pooling import GlobalMean
from compressbench.models.resnet import PadShortcut
from compressbench.runtimes.base import Executor, Skip, executor

Action = Callable[[dict[fx.Node, Tensor]], None]
Own = BlockSparseConv2d | DepthwiseConv2d | GlobalMean
Masks = dict[str, tuple[Tensor, int]]
Form = Callable[..., Tensor]
"""(input, [what is added to the output]) -> output, all NCHW."""

OUR_CONVOLUTION = Replaceable(
    nn.Conv2d, ("in_channels", "out_channels", "groups", "bias"),
    kernel_size=equal_pair, stride=equal_pair, padding=equal_pair, dilation=one_of((1, 1)), padding_mode=one_of("zeros"),
)  # fmt: skip
BINARY_CONVOLUTION = Replaceable(
    nn.Conv2d, ("in_channels", "out_channels", "bias"),
    kernel_size=equal_pair, stride=equal_pair, padding=equal_pair, dilation=one_of((1, 1)), groups=one_of(1),
    padding_mode=one_of("zeros"),
)  # fmt: skip
PACKED_CONVOLUTION = Replaceable(nn.Conv2d, SIZES, padding=numbers, padding_mode=one_of("zeros"))
MATRIX_PRODUCT = Replaceable(
    nn.Conv2d, ("in_channels", "out_channels", "bias", "dilation", "padding_mode"),
    kernel_size=one_of((1, 1)), stride=one_of((1, 1)), padding=one_of((0, 0)), groups=one_of(1),
)  # fmt: skip
NOTHING = (Replaceable(nn.Identity, ("args", "kwargs")), Replaceable(nn.Dropout, ("p", "inplace")))
"""Modules that return their input in eval mode."""
GLOBAL_MEAN = Replaceable(nn.AdaptiveAvgPool2d, output_size=one_of(1, (1, 1)))
PAD_SHORTCUT = Replaceable(PadShortcut, ("inputs", "outputs", "stride"))
MAX_POOL = Replaceable(
    nn.MaxPool2d, ("kernel_size", "stride", "padding", "dilation", "ceil_mode"), return_indices=one_of(False)
)

CLIPS: dict[Any, tuple[float, float]] = {F.relu: (0, INFINITY), F.relu6: (0, 6), torch.relu: (0, INFINITY)}
CLIP_MODULES = {
    Replaceable(nn.ReLU, ("inplace",)): (0.0, INFINITY),
    Replaceable(nn.ReLU6, ("inplace",), min_val=one_of(0), max_val=one_of(6)): (0.0, 6.0),
}
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


class _Changes(ShapeProp):
    """Notes the shape of every value, and which operations change one in place."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.objection = ""
        """What is changed in place though it is read again, if anything is."""
        self._found: set[fx.Node] = set()
        self._order = {node: i for i, node in enumerate(module.graph.nodes)}

    def run_node(self, n: fx.Node) -> Any:
        """As `ShapeProp`; a view counts as what it views."""
        before = {node: value._version for node, value in self.env.items() if isinstance(value, Tensor)}
        result = super().run_node(n)
        changed = {node for node, version in before.items() if self.env[node]._version != version}
        if changed:
            self._found.add(n)
        gone = self.user_to_last_uses.get(n, [])
        for node in changed:
            if node not in gone or node.op in ("placeholder", "get_attr"):
                self.objection = f"{n.name} changes {node.name} in place, which is read again"
        return result

    def between(self, first: fx.Node, last: fx.Node, ours: Iterable[fx.Node]) -> bool:
        """Whether an operation that is not one of ours changes something after `first` and before `last`."""
        return any(self._order[first] < self._order[n] < self._order[last] for n in self._found.difference(ours))


class _Plan:
    def __init__(self, model: nn.Module, masks: Masks, example: Tensor) -> None:
        try:
            self._module = fx.GraphModule(model, ModulesAsLeaves().trace(model))
        except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
            raise Skip(f"the network cannot be traced: {error}") from error
        binary = sum(isinstance(layer, _PackedBinary) for layer in self._module.modules())
        self._layout = torch.channels_last if binary else torch.contiguous_format
        self._example, self._masks = example.contiguous(memory_format=self._layout), masks
        self._changes = _Changes(self._module)
        self._changes.propagate(self._example.clone())
        if self._changes.objection:
            raise Skip(self._changes.objection)
        self.forms: Counter[str] = Counter({"binary": binary} if binary else {})
        self.tiles: dict[str, set[str]] = defaultdict(set)
        nodes = list(self._module.graph.nodes)
        self._alias: dict[fx.Node, fx.Node] = {}
        fused = self._fuse(nodes)
        absorbed = {node for chain in fused for node in chain.absorbed}
        by_last = {chain.last: chain for chain in fused}
        self._input = next(node for node in nodes if node.op == "placeholder")
        self._constants = {node: self._constant(node) for node in nodes if node.op in ("placeholder", "get_attr")}
        del self._constants[self._input]
        self._output = self._resolve(_output(nodes))
        compute = [n for n in nodes if n.op.startswith("call_") and n not in self._alias]
        wanted = [(n, by_last.get(n)) for n in compute if n in by_last or n not in absorbed]
        self._steps = [self._convolution(chain) if chain else self._other(node) for node, chain in wanted]
        self._free_values()
        self._views: dict[fx.Node, Tensor] = {}
        self._actions = self._link(self._share_buffers())

    def run(self) -> Tensor:
        """One forward pass."""
        values = {self._input: self._example, **self._constants, **self._views}
        for action in self._actions:
            action(values)
        return values[self._output]

    def _resolve(self, node: fx.Node) -> fx.Node:
        while node in self._alias:
            node = self._alias[node]
        return node

    def _module_of(self, node: fx.Node) -> nn.Module | None:
        return self._module.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _constant(self, node: fx.Node) -> Any:
        """The value of a parameter, a buffer, or an argument with a default."""
        if node.op == "get_attr":
            value: Any = operator.attrgetter(str(node.target))(self._module)
            return value.contiguous() if isinstance(value, Tensor) else value
        return node.args[0] if node.args else None

    def _clip(self, node: fx.Node) -> tuple[float, float] | None:
        """(low, high) of an operation that does nothing but clip."""
        module = self._module_of(node)
        if module is not None:
            found = (clip for form, clip in CLIP_MODULES.items() if form.covers(module) and only_argument(node))
            return next(found, None)
        known = node.op == "call_function" and len(node.args) == 1 and node.kwargs.keys() <= {"inplace"}
        return CLIPS.get(node.target) if known else None

    def _added(self, chain: "_Fused", at: fx.Node) -> fx.Node | None:
        """What an operation adds to the result of a chain, if it does nothing else and both have one shape and type."""
        if at.op != "call_function" or at.target not in ADDITIONS or at.kwargs or len(at.args) != 2:
            return None
        others = [arg for arg in at.args if not (isinstance(arg, fx.Node) and self._resolve(arg) is chain.last)]
        if len(others) != 1 or not isinstance(others[0], fx.Node):
            return None
        alike = len({_kind(node) for node in (chain.last, others[0], at)}) == 1
        return self._resolve(others[0]) if alike else None

    def _fuse(self, nodes: list[fx.Node]) -> list[_Fused]:
        """Follow every convolution through identities, one sum and one clip, as long as it has one reader."""
        for node in nodes:
            module = self._module_of(node)
            if module is not None and (source := only_argument(node)) and any(form.covers(module) for form in NOTHING):
                self._alias[node] = source
        chains: list[_Fused] = []
        taken: set[fx.Node] = set()
        for node in nodes:
            layer = self._module_of(node)
            source = only_argument(node)
            if layer is None or source is None or not CONVOLUTION.covers(layer) or len(_shape(node)) != 4:
                continue
            chain = _Fused(str(node.target), self._resolve(source), node, [node])
            at = node
            while chain.clip is None and len(at.users) == 1:
                at = next(iter(at.users))
                if at in taken or self._changes.between(node, at, chain.absorbed):
                    break
                if (clip := self._clip(at)) is not None:
                    chain.clip = clip
                elif chain.residual is None and (residual := self._added(chain, at)) is not None:
                    chain.residual = residual
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
        if isinstance(module, nn.Conv2d):
            self.forms["dense"] += 1
        if module is not None and only_argument(node) and self._layout is torch.contiguous_format:
            shape = _shape(inputs[0])
            planned = own_operation(module, shape) if native.is_built() else None
            if isinstance(module, nn.MaxPool2d) and MAX_POOL.covers(module) and len(shape) == 4:
                module = _fastest_pool(module, torch.randn(shape))
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
        place = owned | {node: value for node, value in self._constants.items() if isinstance(value, Tensor)}
        left = []
        for step in self._steps:
            if step.planned is not None:  # reads at addresses that are fixed now
                place |= {n: torch.empty(_shape(n)) for n in step.inputs if n not in place and n is not self._input}
            elif (view := _view(step, {n: t for n, t in place.items() if n not in self._constants})) is not None:
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
    before = source.normal_()._version
    value: Any = step.compute([source])
    if not isinstance(value, Tensor) or source._version != before:
        return None
    return value if value.data_ptr() == source.data_ptr() and value.is_contiguous() else None


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
    if GLOBAL_MEAN.covers(module) and len(shape) == 4:
        return GlobalMean(shape[1:])
    if isinstance(module, PadShortcut) and PAD_SHORTCUT.covers(module):  # a 1x1 convolution that copies
        weight = F.pad(torch.eye(shape[1]), (0, 0, module.front, module.back))[:, :, None, None]
        return BlockSparseConv2d(encode_bsr(weight, weight > 0, 1), None, shape[1:], stride=module.stride)
    if isinstance(module, nn.Linear) and LINEAR.covers(module) and len(shape) == 2 and shape[0] == 1:
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
        if norm is not None:
            scale, bias = scale_and_shift(norm, self._form.bias)
            self._form = self._form._replace(scale=self._form.scale * scale, bias=bias)
        self._planned: PackedBinaryConv2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[1, C, H, W] -> the same in channels_last."""
        if self._planned is None:
            bits, scale, bias, encoding, _ = self._form
            geometry: Any = {"stride": self._stride, "padding": self._padding, "encoding": encoding}
            self._planned = PackedBinaryConv2d(bits, scale, bias, x.shape[2:], **geometry)
        if self._form.centred:
            x = x - x.mean((1, 2, 3), keepdim=True)
        return self._planned(x.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2)


def _pack_binary(model: nn.Module) -> nn.Module:
    """Put the kernel in the place of every binary convolution whose geometry it knows, in place."""
    norms = dict(foldable_pairs(model))
    for name, layer in list(model.named_modules()):
        if BINARY_CONVOLUTION.fits(layer) and isinstance(layer, BinaryLayer):
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
    if not OUR_CONVOLUTION.covers(layer) or not 0 <= int(padding[0]) < kernel[0]:
        return {}
    geometry: Any = {"stride": stride[0], "padding": padding[0], "clip": clip}
    if layer.groups > 1:
        depthwise = layer.groups == layer.in_channels == layer.out_channels
        if not depthwise or kernel[0] not in KERNELS or stride[0] not in STRIDES:
            return {}
        return {"depthwise": DepthwiseConv2d(layer.weight, layer.bias, x.shape[1:], **geometry)}
    whole = torch.ones_like(layer.weight, dtype=torch.bool), _block_size(layer.out_channels)
    mask, n = masked or whole
    if n not in BLOCK_SIZES or layer.out_channels % n:
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
    if PACKED_CONVOLUTION.covers(layer):
        geometry: Any = (layer.stride, layer.padding, layer.dilation, layer.groups)
        packed = packed_convolution(layer.weight, layer.bias, x.shape, *geometry)
        if packed is not None:
            yield "dense packed", lambda x, *residual: finish(packed(x).contiguous(memory_format=layout), *residual)
    if layout is torch.channels_last:
        return
    if MATRIX_PRODUCT.covers(layer) and len(x) == 1:
        matrix = layer.weight.detach().flatten(1)
        column = torch.zeros(len(matrix), 1) if layer.bias is None else layer.bias.detach()[:, None]

        def product(x: Tensor, *residual: Tensor) -> Tensor:
            y = torch.addmm(column, matrix, x.flatten(2)[0])
            return finish(y.view(1, -1, *x.shape[2:]), *residual)

        yield "dense GEMM", product


def _kind(node: fx.Node) -> tuple[torch.Size, torch.dtype] | None:
    """Shape and type of a value that is one tensor."""
    found = node.meta.get("tensor_meta")
    return (found.shape, found.dtype) if isinstance(found, TensorMetadata) else None


def _shape(node: fx.Node) -> torch.Size:
    return node.meta["tensor_meta"].shape  # type: ignore[no-any-return]


def _output(nodes: list[fx.Node]) -> fx.Node:
    (found,) = next(node.args for node in nodes if node.op == "output")
    if not isinstance(found, fx.Node) or _kind(found) is None:
        raise Skip("the network returns something else than one tensor")
    return found
