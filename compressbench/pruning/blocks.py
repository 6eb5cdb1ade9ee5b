"""1xN blocks: N consecutive output kernels that read one input channel (1xN pattern, arXiv 2105.14713).

Blocks are numbered with the input channel as the slow index and the output group as the fast one:
block = c * (c_out / N) + r holds weight[r N : (r + 1) N, c].
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.models.structure import Coupling
from compressbench.pruning.masks import keep_largest

Rows = Literal["ranked", "uniform"]


def check_blocks(weight: Tensor, n: int, straddle: bool = False, name: str = "weight") -> None:
    """UserError, naming the layer, unless `weight` [c_out, c_in, ...] can be cut into blocks of N output kernels."""
    c_out, c_in = weight.shape[:2]
    if n < 1:
        raise UserError(f"{name}: a block has at least 1 output channel, not {n}; choose a larger n.")
    if c_out % n and not straddle:
        raise UserError(
            f"{name}: n = {n} does not divide its {c_out} output channels; choose an n that does, or a pair whose widths are "
            "multiples of it."
        )
    if c_out * c_in % n:
        raise UserError(f"{name}: n = {n} does not divide its {c_out * c_in} kernels; choose an n that does.")


def check_network(model: nn.Module, names: Collection[str], n: int, straddle: bool = False) -> None:
    """`check_blocks` of all the layers that are to carry blocks; UserError if there are none."""
    if not names:
        raise UserError(
            "no convolution of this network can carry blocks: it has none but the first; choose another pair."
        )
    for name, weight in weights_of(model, names).items():
        check_blocks(weight, n, straddle, name)


def block_scores(weight: Tensor, n: int, straddle: bool = False, name: str = "weight") -> Tensor:
    """The l1 norm of every block: weight [c_out, c_in, ...] -> [blocks].

    With `straddle` and an n that does not divide c_out, a block reaches into the next input channel: that is
    what cutting the flattened kernels into runs of n does in the authors' code.
    """
    check_blocks(weight, n, straddle, name)
    kernels = weight.detach().abs().flatten(2).sum(2) if weight.dim() > 2 else weight.detach().abs()
    return kernels.t().reshape(-1, n).sum(1)


def expand_blocks(kept: Tensor, shape: torch.Size, n: int) -> Tensor:
    """kept bool [blocks] -> mask bool of the weight's shape [c_out, c_in, ...]."""
    c_out, c_in = shape[:2]
    kernels = kept.repeat_interleave(n).reshape(c_in, c_out).t()
    return kernels.reshape(c_out, c_in, *[1] * (len(shape) - 2)).expand(shape).contiguous()


def removed_blocks(blocks: int, sparsity: float) -> int:
    """floor(sparsity * blocks) in double precision, as the authors compute it.

    0.7 * B rounds to just below the whole number for some layers, which then lose one block less; their counts say so.
    """
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity is a fraction of the blocks, between 0 and 1, not {sparsity}")
    return math.floor(sparsity * blocks)


def kept_blocks(scores: Tensor, sparsity: float, groups: int, rows: Rows = "ranked") -> Tensor:
    """scores [blocks] -> bool [blocks] without the floor(sparsity * blocks) smallest; of equal ones the earlier is dropped.

    rows: "ranked" ranks all blocks of the layer; "uniform" drops equally many (give or take one) from each of the
    `groups` output groups, the smallest of each, so that no output group is emptied while others stay full.
    """
    removed = removed_blocks(scores.numel(), sparsity)
    if rows == "ranked":
        return keep_largest(scores, removed)
    order = scores.argsort(stable=True)
    rank_in_group = scores.reshape(-1, groups).argsort(dim=0, stable=True).argsort(dim=0).flatten()
    return keep_largest(order[rank_in_group[order].argsort(stable=True)].argsort(), removed)


def block_mask(
    weight: Tensor, n: int, sparsity: float, rows: Rows = "ranked", straddle: bool = False, name: str = "weight"
) -> Tensor:
    """The 1xN mask by l1 norm: weight [c_out, c_in, ...] -> bool of the same shape, constant on every block."""
    scores = block_scores(weight, n, straddle, name)
    if rows == "uniform":
        check_blocks(weight, n, name=name)
    return expand_blocks(kept_blocks(scores, sparsity, weight.shape[0] // n, rows), weight.shape, n)


def random_block_mask(
    weight: Tensor, n: int, sparsity: float, generator: torch.Generator, rows: Rows = "ranked", name: str = "weight"
) -> Tensor:
    """Like `block_mask` with blocks drawn at random without replacement: exactly floor(sparsity * blocks) are removed."""
    check_blocks(weight, n, name=name)
    groups = weight.shape[0] // n
    scores = torch.rand(groups * weight.shape[1], generator=generator).to(weight.device)
    return expand_blocks(kept_blocks(scores, sparsity, groups, rows), weight.shape, n)


def rearrangement(weight: Tensor) -> Tensor:
    """Filters by ascending l1 norm: weight [c_out, ...] -> order int64 [c_out]. Blocks are formed in this order."""
    return weight.detach().abs().flatten(1).sum(1).argsort(stable=True)


def rearranged_block_mask(
    weight: Tensor, n: int, sparsity: float, rows: Rows = "ranked", straddle: bool = False, name: str = "weight"
) -> Tensor:
    """The mask of the rearranged filters, scattered back to their original order ("virtual" rearrangement)."""
    order = rearrangement(weight)
    mask = torch.empty_like(weight, dtype=torch.bool)
    mask[order] = block_mask(weight[order], n, sparsity, rows, straddle, name)
    return mask


def prunable_layers(model: nn.Module, classifier: bool = False) -> list[str]:
    """Names of the convolutions that carry blocks: all but the first and the depthwise ones.

    The classifier (everything under `classifier`) stays dense unless asked for.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    first = next(iter(layers))
    return [
        name
        for name, layer in layers.items()
        if name != first and getattr(layer, "groups", 1) == 1 and (classifier or name.split(".")[0] != "classifier")
    ]


def weights_of(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """The weights of the named layers."""
    return {name: model.get_parameter(f"{name}.weight") for name in names}


def block_statistics(layers: list[tuple[Tensor, Tensor]], n: int) -> dict[str, float]:
    """How a block pattern spreads over the channels, over all layers [(weight, mask)] in stored order.

    empty_groups: share of output groups without any block (their channels are constant after batch norm).
    unread_inputs: share of input channels that no block reads.
    kept_l1: share of the l1 norm that the masks keep.
    group_spread: mean over layers of the standard deviation of (blocks of a group / mean blocks per group).
    """
    empty, unread, spread = [], [], []
    for _, mask in layers:
        kept = mask.flatten(2).any(2) if mask.dim() > 2 else mask
        per_group = kept.reshape(kept.shape[0] // n, n, -1).any(1).sum(1).float()
        empty.append(per_group == 0)
        unread.append(~kept.any(0))
        spread.append((per_group / per_group.mean().clamp(min=1e-9)).std(correction=0))
    kept_l1 = sum(float((w.detach() * m).abs().sum()) for w, m in layers)
    return {
        "empty_groups": float(torch.cat(empty).float().mean()),
        "unread_inputs": float(torch.cat(unread).float().mean()),
        "kept_l1": kept_l1 / sum(float(w.detach().abs().sum()) for w, _ in layers),
        "group_spread": float(torch.stack(spread).mean()),
    }


def connected_share(masks: Mapping[str, Tensor], couplings: Iterable[Coupling]) -> float:
    """Share of the kept kernels that lie on a path through the masked layers: masks by layer name [c_out, c_in, ...].

    A kernel is idle when its input channel has lost all its kernels (it is constant after batch norm) or when nothing
    reads its output channel. Idle kernels are stored and computed, and do nothing for the image.
    """
    kernels = {name: mask.flatten(2).any(2) if mask.dim() > 2 else mask.clone() for name, mask in masks.items()}
    links = [c for c in couplings if c.group is None and kernels.keys() >= {c.producer, *c.consumers}]
    kept = connected = sum(int(k.sum()) for k in kernels.values())
    before = None
    while before != connected:
        before = connected
        for link in links:
            alive = kernels[link.producer].any(1)
            columns = slice(link.offset, link.offset + len(alive))
            read = torch.stack([kernels[name][:, columns].any(0) for name in link.consumers]).any(0)
            kernels[link.producer] &= read[:, None]
            for name in link.consumers:
                kernels[name][:, columns] &= alive
        connected = sum(int(k.sum()) for k in kernels.values())
    return connected / max(kept, 1)


@dataclass(frozen=True)
class BlockSparse:
    """A matrix [rows, columns] as (N, 1) blocks: BSR with N rows and one column per block.

    data: float [stored, N]; indices: int32 [stored], the column; indptr: int32 [rows / N + 1].
    """

    data: Tensor
    indices: Tensor
    indptr: Tensor
    shape: tuple[int, int]

    @property
    def stored_bytes(self) -> int:
        """Bytes of data, indices and pointers."""
        return sum(t.numel() * t.element_size() for t in (self.data, self.indices, self.indptr))

    def decode(self) -> Tensor:
        """The dense matrix [rows, columns]."""
        groups, n = self.indptr.numel() - 1, self.data.shape[1]
        group = torch.repeat_interleave(torch.arange(groups), self.indptr.diff().long())
        dense = self.data.new_zeros(groups, self.shape[1], n)
        dense[group, self.indices.long()] = self.data
        return dense.transpose(1, 2).reshape(self.shape)

    def matmul(self, x: Tensor) -> Tensor:
        """[rows, columns] @ x [columns, pixels]: each stored block broadcasts one input row against N outputs."""
        groups, n = self.indptr.numel() - 1, self.data.shape[1]
        group = torch.repeat_interleave(torch.arange(groups), self.indptr.diff().long())
        products = self.data[:, :, None] * x[self.indices.long()][:, None]
        return x.new_zeros(groups, n, x.shape[1]).index_add_(0, group, products).reshape(self.shape[0], -1)


def encode_bsr(weight: Tensor, mask: Tensor, n: int) -> BlockSparse:
    """weight, mask [c_out, c_in, ...] -> (N, 1) blocks of the matrix [c_out, c_in * k * k] (im2col columns).

    A column block is stored when any of its N entries is kept, so a mask that is not constant on blocks of N
    consecutive filters (a virtual rearrangement) stores more than it keeps.
    """
    if len(weight) % n:
        raise ValueError(f"blocks of {n} rows do not divide {len(weight)} rows")
    matrix = (weight.detach() * mask).flatten(1)
    groups = matrix.reshape(-1, n, matrix.shape[1])
    stored = mask.flatten(1).reshape(groups.shape).any(1)
    group, column = stored.nonzero(as_tuple=True)
    indptr = torch.zeros(len(groups) + 1, dtype=torch.int32)
    indptr[1:] = stored.sum(1).cumsum(0)
    return BlockSparse(groups[group, :, column], column.to(torch.int32), indptr, (matrix.shape[0], matrix.shape[1]))
