"""A classifier whose head grows with every session of new classes (LEC-Net, arXiv 2104.02281)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressbench import models
from compressbench.models.structure import Classifier, network_of

EPSILON = 1e-6


def norm(h: Tensor) -> Tensor:
    """h / (1e-6 + ‖h‖₂) per row of [B, N]; zero for a zero row."""
    return h / (EPSILON + h.norm(dim=1, keepdim=True))


class Session(nn.Module):
    """What one session adds: the classifier V of its classes and, for these alone, an expansion U of the nodes with gates.

    `expansion` may have a row per node or fewer: then the buffer `row` [nodes] says which row belongs to a node; the
    number of rows means none.
    """

    expansion: nn.Linear | None
    gate: Tensor
    row: Tensor

    def __init__(self, features: int, nodes: int, classes: int, rows: int) -> None:
        super().__init__()
        if not 0 <= rows <= nodes:
            raise ValueError(f"growing: an expansion of {nodes} nodes cannot have {rows} rows")
        self.is_compact = rows < nodes
        self.expansion = nn.Linear(features, rows, bias=False) if rows else None
        if rows:
            self.register_buffer("gate", torch.zeros(rows))
        if rows and self.is_compact:
            self.register_buffer("row", torch.zeros(nodes, dtype=torch.long))
        self.classifier = nn.Linear(nodes, classes, bias=False)

    @property
    def rows(self) -> int:
        """Of the expansion; 0 without one."""
        return 0 if self.expansion is None else self.expansion.out_features

    @torch.no_grad()
    def take_rows(self, whole: "Session", nodes: Tensor) -> None:
        """Copy a session that has a row per node, and of its expansion the rows of `nodes` [rows]."""
        self.classifier.load_state_dict(whole.classifier.state_dict())
        if self.expansion is None or whole.expansion is None:
            return
        self.expansion.weight.copy_(whole.expansion.weight[nodes])
        self.gate.copy_(whole.gate[nodes])
        if self.is_compact:
            self.row.fill_(len(nodes))
            self.row[nodes] = torch.arange(len(nodes), device=nodes.device)

    def forward(self, x: Tensor, h: Tensor, gamma: float) -> Tensor:
        """Features x [B, F] and nodes h [B, N] -> logits V norm(γ h + a ∘ U x) [B, C] with the stored gates a."""
        if self.expansion is None:
            return self.classifier(norm(h))
        return self.gated(self.expansion(x), self.gate, h, gamma)

    def gated(self, z: Tensor, gate: Tensor, h: Tensor, gamma: float) -> Tensor:
        """The logits from z = U x [B, rows] and any gates [rows]."""
        extra = gate * z
        if self.is_compact:
            extra = F.pad(extra, (0, 1)).index_select(1, self.row)
        return self.classifier(norm(gamma * h + extra))


class Output(NamedTuple):
    """Logits [B, classes] and the gates [N] that the last session's had; None where it has no expansion."""

    logits: Tensor
    gate: Tensor | None


class GrowingHead(nn.Module):
    """From features to the classes of all sessions so far: h = W x, V_0 norm(h), and each later session's own logits.

    Args:
        features: F, the width of the features.
        nodes: N; None takes the features themselves for the nodes: no W.
        sessions: classes of each session.
        expansions: rows of each later session's expansion; 0 for none, N for the whole one. Default: none.
        gamma: weight of the old nodes beside an expansion.
    """

    def __init__(
        self, features: int, nodes: int | None, sessions: Sequence[int], expansions: Sequence[int], gamma: float
    ) -> None:
        super().__init__()
        rows = list(expansions) or [0] * (len(sessions) - 1)
        if not sessions or len(rows) != len(sessions) - 1:
            raise ValueError(
                f"growing: {len(sessions)} sessions but {len(rows)} expansions; all but the first have one"
            )
        self.features, self.width, self.gamma = features, nodes or features, gamma
        self.nodes = nn.Linear(features, nodes, bias=False) if nodes else nn.Identity()
        sizes = zip(sessions, [0, *rows], strict=True)
        self.sessions = nn.ModuleList(Session(features, self.width, classes, r) for classes, r in sizes)

    def grow(self, classes: int, rows: int) -> Session:
        """Append a session, freshly initialised from torch's current generator."""
        session = Session(self.features, self.width, classes, rows).to(next(self.parameters()).device)
        self.sessions.append(session)
        return session

    @property
    def parts(self) -> list[Session]:
        """The sessions, the base first."""
        return [part for part in self.sessions if isinstance(part, Session)]

    @property
    def last(self) -> Session:
        """The newest session."""
        return self.parts[-1]

    @property
    def arguments(self) -> dict[str, Any]:
        """What the head has grown to, as arguments of the architecture."""
        return {
            "nodes": self.width if isinstance(self.nodes, nn.Linear) else None,
            "sessions": [part.classifier.out_features for part in self.parts],
            "expansions": [part.rows for part in self.parts[1:]],
            "gamma": self.gamma,
        }

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, F] -> logits [B, classes of all sessions], every gate as stored."""
        h = self.nodes(x)
        return torch.cat([session(x, h, self.gamma) for session in self.parts], dim=1)

    def self_activated(self, x: Tensor, beta: float) -> Output:
        """The same with the last session's gates from this batch: a = sigmoid(β mean_batch(U x)), not detached."""
        h, last = self.nodes(x), self.last
        earlier = [session(x, h, self.gamma) for session in self.parts[:-1]]
        if last.expansion is None:
            return Output(torch.cat([*earlier, last(x, h, self.gamma)], dim=1), None)
        z = last.expansion(x)
        gate = torch.sigmoid(beta * z.mean(0))
        return Output(torch.cat([*earlier, last.gated(z, gate, h, self.gamma)], dim=1), gate)

    @torch.no_grad()
    def compact(self, threshold: float) -> "GrowingHead":
        """A copy of a head with whole expansions, without the rows whose gate is below `threshold`, in eval mode.

        What such a row adds to its node is at most that times |z|.
        """
        kept = [torch.nonzero(part.gate >= threshold).flatten() if part.rows else torch.empty(0) for part in self.parts]
        arguments = self.arguments | {"expansions": [len(nodes) for nodes in kept[1:]]}
        small = GrowingHead(self.features, **arguments).to(next(self.parameters()).device)
        small.nodes.load_state_dict(self.nodes.state_dict())
        for new, old, nodes in zip(small.parts, self.parts, kept, strict=True):
            new.take_rows(old, nodes)
        return small.eval()


class GrowingClassifier(Classifier):
    """A backbone of any other architecture and a head that grows; features are the backbone's pooled ones.

    `nodes`, `sessions`, `expansions`, `gamma`: see `GrowingHead`.
    """

    body: Classifier
    classifier: GrowingHead

    def __init__(
        self,
        backbone: str = "resnet18",
        backbone_arguments: Mapping[str, Any] | None = None,
        nodes: int | None = 512,
        sessions: Sequence[int] = (100,),
        expansions: Sequence[int] = (),
        gamma: float = 0.6,
    ) -> None:
        super().__init__()
        self.body = network_of(models.build(backbone, **(backbone_arguments or {})), Classifier)
        features = self.body.get_parameter("classifier.weight").shape[1]
        self.body.classifier = nn.Identity()
        self.classifier = GrowingHead(features, nodes, sessions, expansions, gamma)

    def features(self, images: Tensor) -> Tensor:
        """[B, c, H, W] -> [B, F]."""
        return self.body.features(images)

    def with_head(self, head: GrowingHead) -> "GrowingClassifier":
        """A new network with this backbone and (a copy of) that head, in eval mode."""
        with torch.random.fork_rng(devices=[]):
            grown = models.build(self.spec.architecture, **(self.spec.arguments | head.arguments))
        network = network_of(grown, GrowingClassifier)
        network.to(next(self.parameters()).device)
        network.body.load_state_dict(self.body.state_dict())
        network.classifier.load_state_dict(head.state_dict())
        return network.eval()


ARCHITECTURES = {"growing": GrowingClassifier}
