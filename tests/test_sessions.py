"""Going through sessions: from the same start in every draw, in order, with everything kept that is judged."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compressbench import models
from compressbench.data import Split
from compressbench.finite import NotFinite
from compressbench.sessions import features, through_sessions

TEST = torch.eye(4)


class Counter(nn.Module):
    """Predicts how many sessions it has learned."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("learned", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot(self.learned.expand(len(x)), 9).float()


class Context(SimpleNamespace):
    """Two draws of three sessions; the shots say which they are."""

    def __init__(self) -> None:
        data = SimpleNamespace(draws=2, sessions=3, shots=lambda *named: Split(torch.zeros(1), torch.tensor(named)))
        super().__init__(seed=0, stage="compress", logger=None, companions={}, data=data)

    def keep(self, name: str, tensors: dict[str, Tensor]) -> None:
        self.companions |= {f"{name}/{key}": tensor for key, tensor in tensors.items()}


def go(ctx: Context, seen: list[Any], **options: Any) -> list[Counter]:
    def learn(network: Counter, shots: Split, session: int, draw: int) -> Counter:
        seen.append((draw, session, shots.labels.tolist(), int(network.learned), torch.rand(1).item()))
        network.learned += 1
        return network

    return through_sessions(ctx, Counter(), TEST, learn, **options)  # type: ignore[arg-type,type-var]


def test_every_draw_starts_from_the_base_session_and_each_session_from_the_one_before() -> None:
    seen: list[Any] = []
    networks = go(Context(), seen)
    order = [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert [entry[:2] for entry in seen] == order and [entry[2] for entry in seen] == [[s, d] for d, s in order]
    assert [entry[3] for entry in seen] == [0, 1, 0, 1] and [int(n.learned) for n in networks] == [2, 2]


def test_predictions_after_every_session_of_every_draw_are_kept() -> None:
    ctx = Context()
    go(ctx, [])
    kept = {name: set(tensor.tolist()) for name, tensor in ctx.companions.items()}
    assert kept == {f"predictions/{draw}/{session}": {session} for draw in range(2) for session in range(3)}


def test_random_numbers_of_a_session_depend_on_seed_draw_and_session_alone() -> None:
    runs: list[list[Any]] = [[], [], []]
    for before, (seen, seed) in enumerate(zip(runs, (0, 0, 1), strict=True)):
        torch.manual_seed(before)
        ctx = Context()
        ctx.seed = seed
        go(ctx, seen)
    numbers = [[entry[4] for entry in seen] for seen in runs]
    assert numbers[0] == numbers[1] and len(set(numbers[0] + numbers[2])) == 8


def test_another_form_of_the_network_may_be_judged_and_the_logger_counts_all_sessions() -> None:
    class Ahead(nn.Module):
        def __init__(self, network: Counter) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            return self.network(x).roll(1, 1)

    ctx, logged = Context(), []
    ctx.logger = SimpleNamespace(epoch=lambda number, epochs, metrics: logged.append((number, epochs, metrics)))
    networks = go(ctx, [], form=Ahead)
    assert ctx.companions["predictions/1/2"].tolist() == [3] * 4 and all(type(n) is Counter for n in networks)
    assert [entry[:2] for entry in logged] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert logged[2][2] == {"draw": 1, "session": 1}


def test_features_are_those_of_the_frozen_network_in_batches_of_any_size() -> None:
    torch.manual_seed(0)
    arguments = {"in_channels": 1, "widths": [4, 6], "strides": [2, 2]}
    network = models.build("growing", backbone="plain", backbone_arguments=arguments, nodes=5, sessions=[3]).train()
    images = torch.randn(7, 1, 8, 8)
    found = features(network, images, batch=3)
    assert not network.training and not found.requires_grad and found.shape == (7, 6)
    torch.testing.assert_close(found, network.features(images))
    images[4] = torch.nan
    with pytest.raises(NotFinite, match="growing puts out NaN or infinity for 1 of 7"):
        features(network, images)
