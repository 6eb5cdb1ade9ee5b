"""The latency of a structure as a sum over its blocks, from a table that is measured before the training."""

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from pydantic import NonNegativeFloat, TypeAdapter, ValidationError
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.files import write_text
from compressbench.models.subnets import Block, Key, Layout, block_of
from compressbench.supernet.config import SupernetConfig


class LatencyTable:
    """Microseconds per block (kind, input size, in, out, expanded, kernel, stride, padding).

    Blocks of equal key are timed once. The head and the classifier of a MobileNet-V2 are those of the network, whose head has
    its full width in every structure.
    """

    def __init__(self, entries: Mapping[Key, float]):
        self.entries = dict(entries)

    def __call__(self, blocks: Sequence[Block]) -> Tensor:
        """Sums over the blocks, float64 [N]; UserError when an entry is missing."""
        try:
            rows = [[self.entries[key] for key in block.table_keys()] for block in blocks]
        except KeyError as error:
            raise UserError(
                f"the latency table has no entry {list(error.args[0])}; measure the table of this space."
            ) from None
        return torch.tensor(rows, dtype=torch.float64).sum(0)

    def save(self, path: Path) -> None:
        """JSON: [[key, microseconds], ...]."""
        write_text(path, json.dumps([[list(key), value] for key, value in self.entries.items()]))

    @classmethod
    def load(cls, path: Path) -> "LatencyTable":
        """The inverse of `save`; UserError names a file that is missing, damaged or no table."""
        if not path.is_file():
            raise UserError(f"the latency table {path} does not exist; correct latency_table, or leave it out.")
        try:
            entries = TypeAdapter(list[tuple[Key, NonNegativeFloat]]).validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(
                f"{path} is no latency table ({first['msg']} at {'.'.join(map(str, first['loc'])) or 'its start'}); write "
                "[[[kind, size, inputs, outputs, expanded, kernel, stride, padding], microseconds], ...]."
            ) from None
        return cls(dict(entries))


def keys_of(layout: Layout, resolutions: Iterable[int], widths: Tensor) -> list[Key]:
    """Every block of every structure of a space, each once.

    A block depends on the resolution and on the multipliers of its input and its output, which belong to neighbouring stages:
    all pairs of `widths` (float64), of those that lead to different channels.
    """
    uniform = widths[:, None].expand(-1, layout.stages)
    blocks = layout.blocks(torch.zeros(len(widths), dtype=torch.long), uniform)
    channels = torch.stack([block.outputs for block in blocks], 1)
    changes = torch.cat([torch.tensor([True]), (channels[1:] != channels[:-1]).any(1)])
    pairs = torch.cartesian_prod(widths[changes], widths[changes])
    found: dict[Key, None] = {}
    for resolution, parity in itertools.product(resolutions, (0, 1)):
        multipliers = pairs[:, [(stage + parity) % 2 for stage in range(layout.stages)]]
        for block in layout.blocks(torch.full((len(pairs),), resolution), multipliers):
            found |= dict.fromkeys(block.table_keys())
    return list(found)


def measured_table(
    layout: Layout, space: SupernetConfig, time: Callable[[nn.Module, Tensor], float] | None = None
) -> LatencyTable:
    """The table of every block of a space, timed by `time` (microseconds); default: the median in eager PyTorch, one thread."""
    from compressbench.timing.latency import microseconds

    low, high = space.resolutions
    count = round(1000 * (1 - space.min_width)) + 1
    widths = torch.linspace(space.min_width, 1, count, dtype=torch.float64)
    keys = keys_of(layout, range(low, high + 1, space.resolution_step), widths)
    with torch.random.fork_rng(devices=[]):
        return LatencyTable({key: (time or microseconds)(*block_of(key, layout.activation)) for key in keys})
