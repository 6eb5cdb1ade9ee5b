"""Going through the sessions of few-shot class-incremental learning, once for every draw of the shots."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from compressbench import quality
from compressbench.data import AnySplit
from compressbench.finite import finite, title
from compressbench.method import Context
from compressbench.models.growing import GrowingClassifier
from compressbench.models.structure import AnyModule
from compressbench.seeding import derive_seed


@torch.no_grad()
def features(network: GrowingClassifier, images: Tensor | AnySplit, batch: int = 100) -> Tensor:
    """What a frozen backbone makes of the images, in eval mode: [N, F], on the network's device."""
    network.eval()
    device = next(network.parameters()).device
    batches = quality.in_parts(images, batch)
    parts = [finite(network.features(part.to(device)), title(network)) for part in batches]
    return torch.cat(parts)


def through_sessions(
    ctx: Context,
    start: AnyModule,
    test: Tensor | AnySplit,
    learn: Callable[[AnyModule, AnySplit, int, int], AnyModule],
    form: Callable[[AnyModule], nn.Module] = lambda network: network,
) -> list[AnyModule]:
    """The network after the last session, for every draw of the shots; what it predicts after each session is kept.

    Args:
        ctx: of the method's last stage.
        start: the network after the base session; a head will do where the backbone is frozen.
        test: what `start` reads of the test images.
        learn: (network, shots, session, draw) -> the network after that session. It gets a copy of `start` or what it
            returned for the session before, and may change it; torch's generator is seeded by (seed, draw, session).
        form: what is judged of a network, where that is another form of it.
    """
    data, networks = ctx.data, []
    before = quality.predictions(form(start), test, name="the network after the base session")
    for draw in range(data.draws):
        network, name = copy.deepcopy(start), f"predictions/{draw}"
        ctx.keep(name, {"0": before})
        for session in range(1, data.sessions):
            torch.manual_seed(derive_seed(ctx.seed, ctx.stage, "session", draw, session))
            network = learn(network, data.shots(session, draw), session, draw)
            label = f"the network after session {session} of draw {draw}"
            ctx.keep(name, {str(session): quality.predictions(form(network), test, name=label)})
            if ctx.logger:
                done, last = draw * (data.sessions - 1) + session, data.sessions - 1
                ctx.logger.epoch(done - 1, data.draws * last, {"draw": draw, "session": session})
        networks.append(network)
    return networks
