"""Checks that the output of a network is finite: argmax of NaN gives a class, too, and comparisons with NaN are false."""

from torch import Tensor, nn

from compressbench.errors import UserError


class NotFinite(UserError):
    """A network puts out NaN or infinity, so that nothing measured on it means anything."""


def title(model: nn.Module) -> str:
    """The architecture of a network that was built by name, else its class."""
    spec = getattr(model, "spec", None)
    return str(getattr(spec, "architecture", type(model).__name__))


def finite(values: Tensor, source: str) -> Tensor:
    """The values [N, ...] themselves; `NotFinite` names the source and how many of the N have others than finite ones."""
    good = values.isfinite()
    if good.dim() > 1:
        good = good.flatten(1).all(1)
    if not bool(good.all()):
        raise NotFinite(
            f"{source} puts out NaN or infinity for {int((~good).sum())} of {len(good)} inputs: it cannot be judged; "
            "train it again with a lower learning rate, or look for the layer where they begin."
        )
    return values


def best_class(logits: Tensor, source: str) -> Tensor:
    """The index of the largest of finite logits [N, classes], int64 [N]."""
    return finite(logits, source).argmax(1)
