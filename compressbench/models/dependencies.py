"""The couplings of a network that does not name its own, from Torch-Pruning's dependency graph (Fang et al. 2023).

The graph is that of automatic differentiation: it says which channels of which layers belong together, whatever the network's
code is. What it finds is put into the words of `Coupling`; channels for which these have none (those that group or layer
normalisations, grouped convolutions or parameters of their own are indexed by) are not free.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressbench.errors import UserError
from compressbench.models.structure import Coupling, Link

Module = nn.Conv2d | nn.Linear
LAYERS = (nn.Conv2d, nn.Linear, _BatchNorm)
"""Of which some have an activation inside."""


def find_couplings(model: nn.Module, images: Tensor) -> tuple[Coupling, ...]:
    """The channels of every convolution that may be removed together with all that is indexed by them, in forward order.

    Args:
        images: [N, C, H, W] that the network reads, on its device; on "meta" nothing is computed.

    Raises:
        UserError: Torch-Pruning is not installed.
    """
    graph, trace = _graph(model, images), Trace.of(model, images)
    found: list[Coupling] = []
    seen: set[str] = set()
    for name in trace.order:
        layer = model.get_submodule(name)
        if name in seen or not isinstance(layer, nn.Conv2d) or layer.groups > 1 or layer not in graph.module2node:
            continue
        members = _Members(graph, layer, trace)
        seen |= members.writers.keys()
        if (coupling := members.coupling()) is not None:
            found.append(coupling)
    return tuple(found)


def _graph(model: nn.Module, images: Tensor) -> Any:
    try:
        import torch_pruning
    except ModuleNotFoundError as error:
        raise UserError(
            f"the couplings of a network of one's own are found by Torch-Pruning, but {error.name} is not installed; install "
            "the extra: pip install 'compressbench[own]'."
        ) from error
    try:
        with torch.enable_grad():
            return torch_pruning.DependencyGraph().build_dependency(model, images, verbose=False)
    except Exception as error:  # whatever the library comes upon in a network's code
        raise UserError(
            f"Torch-Pruning cannot follow this network ({type(error).__name__}: {error}), so that its filters cannot be "
            "removed; choose a method that leaves the channels alone, or simplify the forward pass."
        ) from error


@dataclass
class Trace:
    """One forward pass: the layers in order of their first call, and which reads the very output of which."""

    names: dict[nn.Module, str]
    order: list[str] = field(default_factory=list)
    _writers: dict[int, str] = field(default_factory=dict)
    _kept: list[Tensor] = field(default_factory=list)
    """So that no tensor takes the identity of an earlier one."""
    read: dict[str, str] = field(default_factory=dict)
    """Module -> the module whose output it reads unchanged."""

    @classmethod
    def of(cls, model: nn.Module, images: Tensor) -> "Trace":
        """Runs the network once, in evaluation mode."""
        trace = cls({m: name for name, m in model.named_modules() if isinstance(m, LAYERS) or not [*m.children()]})
        handles = [module.register_forward_hook(trace._leave) for module in trace.names]
        was_training = model.training
        try:
            with torch.no_grad():
                model.eval()(images)
        finally:
            model.train(was_training)
            for handle in handles:
                handle.remove()
        return trace

    def parameters(self, name: str) -> bool:
        """Whether a leaf module has any."""
        return any(True for module, own in self.names.items() if own == name for _ in module.parameters())

    def _leave(self, module: nn.Module, inputs: Sequence[Any], output: Any) -> None:
        name = self.names[module]
        if name not in self.order:
            self.order.append(name)
        if inputs and (writer := self._writers.get(id(inputs[0]))) is not None:
            self.read.setdefault(name, writer)
        if isinstance(output, Tensor):
            self._writers[id(output)] = name
            self._kept.append(output)


class _Members:
    """What is indexed by the output channels of one convolution."""

    def __init__(self, graph: Any, layer: nn.Conv2d, trace: Trace) -> None:
        import torch_pruning

        self.graph, self.trace, self.channels = graph, trace, layer.out_channels
        self.writers: dict[str, Module] = {}
        self.followers: list[str] = []
        self.norms: list[str] = []
        self.readers: dict[str, list[int]] = {}
        self.expressible = True
        group = graph.get_pruning_group(layer, torch_pruning.prune_conv_out_channels, list(range(self.channels)))
        for dependency, indices in group:
            self._add(dependency, indices)

    def _add(self, dependency: Any, indices: list[int]) -> None:
        module = dependency.target.module
        if type(module).__module__.startswith("torch_pruning"):
            return  # an operation without channels of its own
        name = self.trace.names.get(module)
        whole = list(indices) == list(range(self.channels))
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1 and name is not None and whole:
            self._once(self.followers, name, module.out_channels == self.channels)
        elif isinstance(module, _BatchNorm) and name is not None and whole:
            self._once(self.norms, name, module.num_features == self.channels)
        elif isinstance(module, Module) and getattr(module, "groups", 1) == 1 and name is not None:
            if self.graph.is_out_channel_pruning_fn(dependency.handler):
                self.writers[name] = module
                self.expressible &= whole
            else:
                self.expressible &= name not in self.readers
                self.readers[name] = list(indices)
        else:
            self.expressible = False

    def _once(self, names: list[str], name: str, fits: bool) -> None:
        self.expressible &= fits
        if name not in names:
            names.append(name)

    def coupling(self) -> Coupling | None:
        """In the words of the suite; None where these have none, or nothing reads the channels: they are outputs."""
        gates = self._gates()
        if not self.expressible or not self.readers or len(gates) > 1:
            return None
        gate = gates[0] if gates else None
        consumers = [name for name in self.readers if gate is None or name != gate[0]]
        producers = self._in_order(name for name in self.writers if gate is None or name != gate[1])
        links, followers = [self._link(name) for name in producers], [self._link(name) for name in self.followers]
        normed = {norm for _, norm in [*links, *followers]}
        place = self._place(consumers)
        if place is None or not normed.issuperset(self.norms) or not self._convolutions(producers):
            return None  # a normalisation of a sum belongs to no convolution
        return Coupling(
            producers[0],
            links[0][1],
            tuple(self._in_order(consumers)),
            tuple(sorted(followers, key=lambda link: self.trace.order.index(link[0]))),
            gates=gate,
            activation=self._activation(followers[-1] if followers else links[0]) if len(links) == 1 else None,
            added=tuple(links[1:]),
            group=producers[0] if links[1:] else None,
            offset=place[0],
            pixels=place[1],
        )

    def _convolutions(self, names: Sequence[str]) -> bool:
        return bool(names) and all(isinstance(self.writers[name], nn.Conv2d) for name in names)

    def _in_order(self, names: Iterable[str]) -> list[str]:
        return sorted(names, key=self.trace.order.index)

    def _link(self, name: str) -> Link:
        return name, next((norm for norm in self.norms if self.trace.read.get(norm) == name), None)

    def _activation(self, link: Link) -> str | None:
        """The only module that reads a convolution behind its normalisation, where it has no parameters."""
        readers = [name for name, writer in self.trace.read.items() if writer == (link[1] or link[0])]
        return readers[0] if len(readers) == 1 and not self.trace.parameters(readers[0]) else None

    def _place(self, consumers: Sequence[str]) -> tuple[int, int] | None:
        """(offset, columns of one channel) in the consumers; None where these differ, or the columns are no run."""
        places = set()
        for indices in (self.readers[name] for name in consumers):
            pixels, rest = divmod(len(indices), self.channels)
            if rest or indices != list(range(indices[0], indices[0] + len(indices))):
                return None
            places.add((indices[0], pixels))
        return places.pop() if len(places) == 1 else None

    def _gates(self) -> list[tuple[str, str]]:
        """(reads the channels, its result multiplies them) of every squeeze-excite pair."""
        found = []
        for name, module in self.writers.items():
            if not self._multiplies(module):
                continue
            sources = [reader for reader in self.readers if self._feeds(reader, module)]
            self.expressible &= len(sources) == 1
            found += [(source, name) for source in sources]
        return found

    def _multiplies(self, module: Module) -> bool:
        """Whether the first operation that joins the layer's output with another one is a product."""
        node = self._follow(module, lambda node: len(node.inputs) > 1)
        return node is not None and "Mul" in node.name

    def _feeds(self, reader: str, module: Module) -> bool:
        start = next(m for m, name in self.trace.names.items() if name == reader)
        node = self._follow(cast(Module, start), lambda node: node.module is module)
        return node is not None

    def _follow(self, module: Module, until: Callable[[Any], bool]) -> Any:
        """The first node of that kind after a layer, as long as there is one way to go."""
        node = self.graph.module2node[module]
        while len(node.outputs) == 1:
            (node,) = node.outputs
            if until(node):
                return node
        return None
