"""Networks that the suite does not know: any nn.Module that classifies images, in the words that methods use.

An architecture `package.module:attribute` may be a class or a function of plain PyTorch, of timm or torchvision as well. It is
built with the pair's `arguments`, of which the suite keeps two: `image_shape`, the images that it reads, and `inner_widths`.
"""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from compressbench.accounting import layer_table
from compressbench.errors import UserError
from compressbench.models.channels import cut, select
from compressbench.models.dependencies import find_couplings
from compressbench.models.structure import Classifier, Coupling
from compressbench.seeding import generator

SHAPE = "image_shape"
OWN = (SHAPE, "inner_widths")
"""The arguments that the wrapped network has beside its constructor's."""
BROKEN = (RuntimeError, ValueError, IndexError, AssertionError, TypeError)
"""What the code of a network raises that fixes its widths."""


@dataclass(frozen=True)
class Source:
    """What builds the network at full width.

    name: of the architecture. arguments: JSON, of the constructor alone. image_shape: [C, H, W].
    """

    name: str
    constructor: Callable[..., Any]
    arguments: str
    image_shape: tuple[int, int, int]

    def build(self) -> nn.Module:
        """The module itself, initialised from torch's current generator; on "meta" also where its code reads numbers."""
        arguments = json.loads(self.arguments)
        try:
            return self._checked(self.constructor(**arguments))
        except (RuntimeError, NotImplementedError):
            if torch.get_default_device().type != "meta":
                raise
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            return self._checked(self.constructor(**arguments)).to("meta")

    def _checked(self, built: Any) -> nn.Module:
        if not isinstance(built, nn.Module):
            raise UserError(describe(self.name, built))
        return built

    def images(self, count: int = 2, **where: Any) -> Tensor:
        """Noise [count, C, H, W]."""
        noise = torch.randn(count, *self.image_shape, generator=generator(0, self.name, "images"))
        return noise.to(**where)


class Foreign(Classifier):
    """A module of one's own. Its last layer stands in `classifier`, all before it in `body`.

    Its free channels are those that Torch-Pruning's dependency graph names, as far as the network proves them right: its
    outputs stay the same when they change places, and its code runs with fewer of them.
    """

    def __init__(self, module: nn.Module, source: Source) -> None:
        super().__init__()
        last = classifier_of(source)
        self.source = source
        self.inner_widths: Mapping[str, int] = {}
        classifier = module.get_submodule(last)
        module.set_submodule(last, nn.Identity())
        self.body = module
        self.pool = nn.Flatten()
        self.classifier = classifier  # the last one of `named_modules`, as in the suite's networks

    def taps(self) -> tuple[str, ...]:
        """Those that the module itself names by a method `taps`."""
        named = self.body.taps() if hasattr(self.body, "taps") else ()  # type: ignore[operator]
        return tuple(f"body.{name}" for name in named)

    def names_in_files(self) -> dict[str, str]:
        """Those of the module itself, as its `state_dict` has them."""
        last = classifier_of(self.source)
        places = {"body": "", "classifier": f"{last}."}
        parts = ((name, *name.split(".", 1)) for name in self.state_dict())
        return {name: places[part] + own for name, part, own in parts}

    def couplings(self) -> tuple[Coupling, ...]:
        """Those of the network at full width, at their present places in concatenations."""
        found = couplings_of(self.source)
        return tuple(replace(c, offset=c.offset - self._removed_before(c, found)) for c in found)

    def _removed_before(self, coupling: Coupling, all_of_them: Sequence[Coupling]) -> int:
        before = [c for c in all_of_them if c.offset < coupling.offset and set(c.consumers) & set(coupling.consumers)]
        full = {c.key: widths_of(self.source)[c.key] for c in before}
        return sum(width - self.inner_widths.get(key, width) for key, width in full.items())

    def narrow(self, widths: Mapping[str, int]) -> None:
        """Leave the first channels of the named couplings, in place; layers that change are initialised as PyTorch does."""
        full = widths_of(self.source)
        for key, width in widths.items():
            if not 1 <= width <= full.get(key, 0):
                known = (
                    f"1 to {full[key]} are" if key in full else "such a width is not free; free are: " + ", ".join(full)
                )
                raise UserError(f"architecture {self.source.name}: inner_widths.{key} is {width}; {known}.")
        device = next(self.parameters()).device
        kept = {key: torch.arange(width, device=device) for key, width in widths.items() if width < full[key]}
        for module in cut(self, couplings_of(self.source), kept):
            module.reset_parameters()  # type: ignore[operator]
        self.inner_widths = dict(widths)


def build(name: str, constructor: Callable[..., Any], arguments: Mapping[str, Any]) -> Foreign:
    """The wrapped network; UserError where it is none that the suite can wrap."""
    own = dict(arguments)
    shape, widths = own.pop(SHAPE), own.pop("inner_widths", None)
    if not (isinstance(shape, list | tuple) and len(shape) == 3 and all(isinstance(side, int) for side in shape)):
        raise UserError(f"architecture {name}: {SHAPE} is {shape!r}; write [channels, height, width] of an image.")
    source = Source(name, constructor, json.dumps(own, sort_keys=True), (shape[0], shape[1], shape[2]))
    try:
        model = Foreign(source.build(), source)
    except TypeError as error:
        raise UserError(f"architecture {name}: {error}; correct the pair's arguments.") from error
    if widths:
        model.narrow(widths)
    return model


def describe(name: str, built: object) -> str:
    """What to do about an architecture that gives something else than a network of the suite."""
    if isinstance(built, nn.Module):
        kind = type(built).__name__
        return f"architecture {name} gives a plain {kind}; add {SHAPE}: [channels, height, width] of an image to its arguments."
    return f"architecture {name} gives a {type(built).__name__}, not a network; name the class or function that builds one."


@cache
def classifier_of(source: Source) -> str:
    """The name of the linear layer whose output is the network's; UserError where the suite cannot work on the network."""
    written: dict[int, tuple[str, Tensor]] = {}

    def remember(name: str) -> Callable[..., None]:
        return lambda _, inputs, output: written.update({id(output): (name, output)})

    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        module = source.build()
        linear = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
        handles = [layer.register_forward_hook(remember(name)) for name, layer in linear.items()]
        outputs = _in_training_and_evaluation(module, source)
        for handle in handles:
            handle.remove()
        if any(id(output) not in written or written[id(output)][1].dim() != 2 for output in outputs):
            raise UserError(
                f"architecture {source.name}: its output is not that of a linear layer, so that the suite cannot tell its "
                "classifier from the rest; return the logits [N, classes] of the last nn.Linear as they are, and nothing else."
            )
        layer_table(module, source.image_shape)  # names a module that cannot be counted
    return written[id(outputs[-1])][0]


def _in_training_and_evaluation(module: nn.Module, source: Source) -> list[Any]:
    """What the module gives for noise, in the two modes and memory formats in which the suite runs networks."""
    images, last = source.images(), torch.channels_last
    try:
        found = [module.train()(images), module.eval()(images)]
        module.to(memory_format=last)(images.contiguous(memory_format=last))  # type: ignore[call-overload]
    except BROKEN as error:
        raise UserError(
            f"architecture {source.name} does not run on images of {SHAPE} {list(source.image_shape)} in contiguous and in "
            f"channels_last format ({error}); correct {SHAPE}, or write `flatten` or `reshape` where it says `view`."
        ) from error
    return found


@cache
def couplings_of(source: Source) -> tuple[Coupling, ...]:
    """The free channels at full width. UserError where Torch-Pruning is not installed, or cannot follow the network."""
    _check_without_numbers(source)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        model = Foreign(source.build(), source).requires_grad_(True).eval()
        found = find_couplings(model, source.images())
        if _holds(model, found):
            return found
        return tuple(coupling for coupling in found if _holds(model, [coupling]))


def _check_without_numbers(source: Source) -> None:
    """Networks of other widths are counted without making their tensors."""
    with torch.device("meta"), torch.no_grad():
        try:
            Foreign(source.build(), source).eval()(source.images(device="meta"))
        except (RuntimeError, NotImplementedError) as error:
            raise UserError(
                f"architecture {source.name}: its forward pass depends on the values in its tensors ({error}), so that its "
                "filters cannot be removed; choose a method that leaves the channels alone, or take the branch out."
            ) from error


@cache
def widths_of(source: Source) -> dict[str, int]:
    """The full width of every coupling, by key."""
    with torch.device("meta"):
        state = Foreign(source.build(), source).state_dict()
    return {c.key: len(state[f"{c.producer}.weight"]) for c in couplings_of(source)}


@torch.no_grad()
def _holds(model: Foreign, couplings: Sequence[Coupling]) -> bool:
    """Whether the outputs stay the same when channels change places, and the code runs with half of them."""
    network = _randomised(model)
    state, images = network.state_dict(), model.source.images(dtype=torch.float64)
    drawn = generator(0, model.source.name, "order")
    counts = {c.key: len(state[f"{c.producer}.weight"]) for c in couplings}
    expected = network(images)
    orders = {key: torch.randperm(count, generator=drawn) for key, count in counts.items()}
    network.load_state_dict(select(state, couplings, orders))
    if not torch.allclose(network(images), expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max())):
        return False
    try:
        halved = copy.deepcopy(model)
        cut(halved, couplings, {key: torch.arange(max(1, count // 2)) for key, count in counts.items()})
        halved.eval()(model.source.images())
    except BROKEN:
        return False
    return True


def _randomised(model: Foreign) -> Foreign:
    """A copy in double precision whose normalisations differ from channel to channel."""
    network = copy.deepcopy(model).double().eval()
    drawn = generator(0, model.source.name, "channels")
    for tensor in network.state_dict().values():
        if tensor.dim() == 1 and tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=drawn, dtype=tensor.dtype) + 0.5)
    return network
