"""A network as its operations in the order in which they run: what each reads, in which shape, and what it changes in place."""

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata

from compressbench.layers.folding import ModulesAsLeaves, only_argument
from compressbench.layers.replaceable import Replaceable
from compressbench.runtimes.base import Skip

IDENTITIES = (Replaceable(nn.Identity, ("args", "kwargs")), Replaceable(nn.Dropout, ("p", "inplace")))
"""Modules that return their input in eval mode."""


def trace(model: nn.Module) -> fx.GraphModule:
    """The operations of a network; `Skip` where they depend on its input."""
    try:
        return fx.GraphModule(model, ModulesAsLeaves().trace(model))
    except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
        raise Skip(f"the network cannot be traced: {error}") from error


class Graph:
    """The operations of a traced network, with the shapes that they have for one example.

    Raises `Skip` where a value is read again after it was changed in place, or where the result is not one tensor.

    Attributes:
        nodes: inputs, constants and operations.
        identities: operation that does nothing -> what it returns.
        constants: parameter, buffer, or argument with a default -> its value.
        input, output: the image, and the operation whose result is returned.
    """

    def __init__(self, module: fx.GraphModule, example: Tensor) -> None:
        self._module, self._changes = module, _Changes(module)
        self._changes.propagate(example.clone())
        if self._changes.objection:
            raise Skip(self._changes.objection)
        self.nodes = list(module.graph.nodes)
        self.identities = {
            node: source for node in self.nodes if self._is_identity(node) and (source := only_argument(node))
        }
        self.input = next(node for node in self.nodes if node.op == "placeholder")
        given = [node for node in self.nodes if node.op in ("placeholder", "get_attr") and node is not self.input]
        self.constants = {node: self._constant(node) for node in given}
        self.output = self.resolve(_output(self.nodes))

    @property
    def operations(self) -> list[fx.Node]:
        """What has to be computed."""
        return [node for node in self.nodes if node.op.startswith("call_") and node not in self.identities]

    def module_of(self, node: fx.Node) -> nn.Module | None:
        """The module that an operation calls, if it calls one."""
        return self._module.get_submodule(str(node.target)) if node.op == "call_module" else None

    def resolve(self, node: fx.Node) -> fx.Node:
        """The operation whose result a value is, behind all identities."""
        while node in self.identities:
            node = self.identities[node]
        return node

    def changed_between(self, first: fx.Node, last: fx.Node, ours: Iterable[fx.Node]) -> bool:
        """Whether an operation that is not one of ours changes something after `first` and before `last`."""
        return self._changes.between(first, last, ours)

    def _is_identity(self, node: fx.Node) -> bool:
        module = self.module_of(node)
        return module is not None and any(form.covers(module) for form in IDENTITIES)

    def _constant(self, node: fx.Node) -> Any:
        if node.op == "get_attr":
            value: Any = operator.attrgetter(str(node.target))(self._module)
            return value.contiguous() if isinstance(value, Tensor) else value
        return node.args[0] if node.args else None


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
        """See `Graph.changed_between`."""
        return any(self._order[first] < self._order[n] < self._order[last] for n in self._found.difference(ours))


def shape_of(node: fx.Node) -> torch.Size:
    """Of a value that is one tensor."""
    return node.meta["tensor_meta"].shape  # type: ignore[no-any-return]


def kind_of(node: fx.Node) -> tuple[torch.Size, torch.dtype] | None:
    """(shape, type) of a value that is one tensor; None of others."""
    found = node.meta.get("tensor_meta")
    return (found.shape, found.dtype) if isinstance(found, TensorMetadata) else None


def _output(nodes: Iterable[fx.Node]) -> fx.Node:
    (found,) = next(node.args for node in nodes if node.op == "output")
    if not isinstance(found, fx.Node) or kind_of(found) is None:
        raise Skip("the network returns something else than one tensor")
    return found
