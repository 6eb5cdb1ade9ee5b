"""Which layers of a program run together: a pointwise convolution and the depthwise one that alone reads its output."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import fx

from compressbench.kernels import native
from compressbench.kernels.autotune import fastest
from compressbench.kernels.block_sparse import BlockSparseConv2d
from compressbench.kernels.depthwise import DepthwiseConv2d
from compressbench.kernels.expanded import ExpandedDepthwise
from compressbench.runtimes.native.steps import Step


def expanded_pairs(steps: Sequence[Step], output: fx.Node) -> Mapping[fx.Node, tuple[Step, ExpandedDepthwise]]:
    """By the node of the second: (first step, both as one layer), where a short trial finds that faster.

    steps: all of a network, whose result is `output`.
    """
    readers = Counter(node for step in steps for node in step.inputs)
    found = {}
    for first, second in itertools.pairwise(steps):
        alone = second.inputs == [first.node] and readers[first.node] == 1 and first.node is not output
        if not alone or len(first.inputs) != 1:
            continue
        if not isinstance(first.planned, BlockSparseConv2d) or not isinstance(second.planned, DepthwiseConv2d):
            continue
        if first.planned.direct and (pair := _faster_pair(first.planned, second.planned)):
            found[second.node] = first, pair
    return found


def _faster_pair(first: BlockSparseConv2d, second: DepthwiseConv2d) -> ExpandedDepthwise | None:
    pair = ExpandedDepthwise(first, second).tune()
    shapes = first.input_shape, first.output_shape, second.output_shape
    x, between, out = (torch.randn(1, *shape) for shape in shapes)
    forms = {
        pair: native.program([pair.step(x, out)]),
        None: native.program([first.step(x, between), second.step(between, out)]),
    }
    return fastest(forms)
