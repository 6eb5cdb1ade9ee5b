"""How many filters are kept and which, shared by the filter-pruning methods and their baselines.

A width belongs to a coupling of the architecture (`model.couplings()`) and is set by the coupling's key, so that nothing
here, and no method, knows an architecture.
"""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from compressbench import accounting
from compressbench.errors import UserError
from compressbench.method import Context
from compressbench.models import Coupling, Network
from compressbench.pruning.masks import removed_count
from compressbench.pruning.surgery import build_narrow
from compressbench.seeding import derive_seed

Shape = tuple[int, int, int]
Widths = dict[str, int]
Rates = Mapping[str, float | Sequence[float]]
RATE_STEP = 2**-12


def couplings_like(model: Network, patterns: Sequence[str]) -> dict[str, Coupling]:
    """The couplings whose key matches one of the shell patterns, by key, in forward order."""
    couplings = {c.key: c for c in model.couplings()}
    for pattern in patterns:
        if not any(fnmatchcase(key, pattern) for key in couplings):
            raise UserError(f"no free width is called like {pattern!r}; the network has: {', '.join(couplings)}.")
    return {key: c for key, c in couplings.items() if any(fnmatchcase(key, p) for p in patterns)}


def check_free(model: Network) -> None:
    """UserError where no channel of the network can be removed."""
    if not model.couplings():
        raise UserError(
            f"no width of the architecture {model.spec.architecture} is free, so that no filter can be removed; choose another "
            "pair, or a method that leaves the channels alone."
        )


def inner_keys(model: Network) -> list[str]:
    """The widths of single convolutions: what can be narrowed without touching a residual sum."""
    return [coupling.key for coupling in model.inner_couplings()]


def producer_weights(model: Network, keys: Sequence[str]) -> dict[str, Tensor]:
    """The weight [c_out, ...] of every coupling's (first) producer, by key."""
    couplings = {c.key: c for c in model.couplings()}
    return {key: model.get_parameter(f"{couplings[key].producer}.weight") for key in keys}


def widths_from_rates(model: Network, rates: Rates) -> Widths:
    """int(C (1 - r)) filters of every layer, in double precision with its rounding errors, as DCFF and CLR-RNF count.

    `rates` gives, per shell pattern of keys, one rate for all that match or a list with one for each, in forward
    order; of several patterns that match the last one counts. Every free width needs a rate.
    """
    chosen: dict[str, float] = {}
    for pattern, given in rates.items():
        keys = list(couplings_like(model, [pattern]))
        values = [given] * len(keys) if isinstance(given, int | float) else list(given)
        if len(values) != len(keys):
            raise UserError(
                f"rates: {len(values)} rates for {len(keys)} widths called like {pattern!r}; give one each."
            )
        chosen |= dict(zip(keys, values, strict=True))
    weights = producer_weights(model, [c.key for c in model.couplings()])
    if missing := [key for key in weights if key not in chosen]:
        raise UserError(f"rates: none for {missing[0]}; give one, 0 keeps the width.")
    widths = {}
    for key, weight in weights.items():
        if not 0 <= chosen[key] < 1:
            raise UserError(f"rates: {chosen[key]} for {key}; a rate is at least 0 and below 1.")
        widths[key] = int(len(weight) * (1 - chosen[key]))
        if widths[key] == 0:
            raise UserError(f"rates: {chosen[key]} leaves no filter of {key}; choose a lower one.")
    return widths


def uniform_widths(model: Network, keys: Sequence[str], rate: float) -> Widths:
    """One rate for the named widths: c - floor(rate c) filters stay, at least 1."""
    weights = producer_weights(model, keys)
    return {key: max(1, len(weight) - removed_count(len(weight), rate)) for key, weight in weights.items()}


def macs(shape: Shape) -> Callable[[nn.Module], int]:
    """Multiply-accumulates for one image, as a cost for `cost_of`."""
    return lambda model: accounting.flops(model, shape)


def cost_of(model: Network, widths: Widths, cost: Callable[[nn.Module], int]) -> int:
    """The cost of the architecture at other widths, without making its tensors."""
    with torch.device("meta"):
        return cost(build_narrow(model, widths))


def rate_within(cost_at: Callable[[float], float], target: float) -> float:
    """The smallest rate in [0, 1], to RATE_STEP, whose cost is at most `target`, by bisection of a falling cost.

    UserError when even rate 1 costs more.
    """
    low, high = 0.0, 1.0
    if (least := cost_at(high)) > target:
        raise UserError(
            f"the narrowest network costs {least:.0f}, the target is {target:.0f}; choose a lower compression."
        )
    while high - low > RATE_STEP:
        middle = (low + high) / 2
        low, high = (low, middle) if cost_at(middle) <= target else (middle, high)
    return high


def widths_within(
    model: Network, widths_at: Callable[[float], Widths], cost: Callable[[nn.Module], int], target: float
) -> Widths:
    """The widest network of a family widths_at(rate) whose cost is at most `target`; see `rate_within`.

    One rate moves many layers at once, so what is left of the target is spent on the next wider network: the last layer
    takes its width, then the one before, as far as the target allows.
    """
    rate = rate_within(lambda rate: cost_of(model, widths_at(rate), cost), target)
    widths, wider = widths_at(rate), widths_at(max(0.0, rate - RATE_STEP))
    for key in reversed(widths):
        if wider[key] > widths[key] and cost_of(model, widths | {key: wider[key]}, cost) <= target:
            widths[key] = wider[key]
    return widths


def strongest_filters(weight: Tensor, count: int, order: int = 1) -> Tensor:
    """The `count` filters of largest l1 (order 2: l2) norm, ascending: weight [c_out, ...] -> int64 [count]. Ties: the last."""
    norms = weight.detach().abs().pow(order).flatten(1).sum(1)
    return norms.argsort(stable=True)[len(weight) - count :].sort().values


def random_filters(weight: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` random filters, ascending: int64 [count]."""
    return torch.randperm(len(weight), generator=generator)[:count].sort().values.to(weight.device)


def from_scratch(ctx: Context, model: Network, widths: Widths) -> Network:
    """The control of every filter pruning: the same widths, freshly initialised from the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(ctx.seed, "initialisation"))
        return build_narrow(model, widths).to(ctx.device)
