"""Nearest class mean: the features of the base session, and a mean for every class. Nothing is trained."""

import torch
from torch import Tensor
from torch.nn import functional as F

from compressbench.data import AnySplit
from compressbench.method import Context, Method
from compressbench.models import Network
from compressbench.models.growing import GrowingClassifier, GrowingHead
from compressbench.models.structure import network_of
from compressbench.sessions import features, through_sessions


def class_means(x: Tensor, labels: Tensor) -> Tensor:
    """μ_c [classes, F] of the classes in `labels`, ascending: the mean of normalised features [B, F], normalised again."""
    unit = F.normalize(x, dim=1)
    return F.normalize(torch.stack([unit[labels == label].mean(0) for label in labels.unique()]), dim=1)


class NearestClassMean(Method):
    """Predicts argmax_c cos(f(x), μ_c), with μ_c from all images of a base class and from the few of a later one."""

    def compress(self, ctx: Context) -> Network:
        base = network_of(ctx.dense(), GrowingClassifier)
        train = ctx.data.train
        means = class_means(features(base, train), train.labels.to(ctx.device))
        start = GrowingHead(means.shape[1], None, [len(means)], [], base.classifier.gamma).to(ctx.device)
        _set(start, means)

        def learn(head: GrowingHead, shots: AnySplit, session: int, draw: int) -> GrowingHead:
            means = class_means(features(base, shots), shots.labels.to(ctx.device))
            head.grow(len(means), rows=0)
            _set(head, means)
            return head

        return base.with_head(through_sessions(ctx, start, features(base, ctx.data.test), learn)[0])


@torch.no_grad()
def _set(head: GrowingHead, means: Tensor) -> None:
    """The logits of the newest session are cosines."""
    head.last.classifier.weight.copy_(means)
