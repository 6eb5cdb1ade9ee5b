"""Counts of the published networks: they need no training."""

import torch

from compressbench import accounting, data, models
from compressbench.method import PublishedCount
from compressbench.models.growing import GrowingClassifier
from compressbench.models.structure import network_of
from methods.lec_net.losses import sharpness

NODES = 512
DATA = {"CUB-200": "cub200_sessions", "CIFAR-100": "cifar100_sessions"}
KEPT = {"half": 256, "tenth": 51}  # rows of an expansion
SIZES = (32, 64, 84, 224)
EPOCHS = (0, 20, 21, 22, 50, 100, 1000)
CIFAR_TEST_IMAGES = 100  # per class


def network(dataset: str, rows: int = NODES) -> GrowingClassifier:
    """The published network after the last session, each expansion with that many rows, on the meta device."""
    sessions = data.protocol(DATA[dataset]).session_len
    arguments = {
        "backbone": "resnet18",
        "nodes": NODES,
        "sessions": sessions,
        "expansions": [rows] * (len(sessions) - 1),
    }
    with torch.device("meta"):
        return network_of(models.build("growing", **arguments), GrowingClassifier)


def recompute() -> list[PublishedCount]:
    """Every count of published.csv."""
    found = [PublishedCount("backbone", "dense", metric, value) for metric, value in _backbone().items()]
    for dataset in DATA:
        name = f"ResNet-18 on {dataset}"
        found += [PublishedCount(name, "shots5_dense", metric, value) for metric, value in _head(dataset).items()]
        for kept, rows in KEPT.items():
            found.append(PublishedCount(name, f"kept_{kept}", "added_params", _added(dataset, rows)))
    found += [PublishedCount("gates", "shots5", f"beta_epoch_{epoch}", sharpness(epoch)) for epoch in EPOCHS]
    sessions = data.protocol(DATA["CIFAR-100"]).session_len
    for s in range(len(sessions)):
        images = CIFAR_TEST_IMAGES * sum(sessions[: s + 1])
        found.append(PublishedCount("CIFAR-100", "shots5", f"test_images_session_{s}", images))
    return found


def _backbone() -> dict[str, float]:
    body = network("CUB-200").body
    with torch.device("meta"):
        whole = models.build("resnet18")
    counts: dict[str, float] = {"params": _count(body), "params_with_classifier": _count(whole)}
    return counts | {f"macs_{size}": accounting.account(body, (3, size, size)).macs for size in SIZES}


def _head(dataset: str) -> dict[str, float]:
    model = network(dataset)
    head, backbone = model.classifier, _count(model.body)
    sessions = head.parts
    added = _added(dataset, NODES)
    rows = accounting.layer_table(model, (3, SIZES[0], SIZES[0]))
    later = [row for row in rows if ".sessions." in row.name and ".sessions.0." not in row.name]
    return {
        "base_head_params": _count(head.nodes) + _count(sessions[0]),
        "session_params": _count(sessions[1]),
        "added_params": added,
        "added_percent": 100 * added / backbone,
        "added_macs": sum(row.macs for row in later),
    }


def _added(dataset: str, rows: int) -> int:
    """Parameters that all later sessions add."""
    return sum(_count(session) for session in network(dataset, rows).classifier.parts[1:])


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
