"""Sessions as a view of classification data: who sees which classes, and which images."""

from itertools import accumulate
from pathlib import Path

import pytest
import torch

from compressbench import data
from compressbench.config import ImageFolder
from compressbench.data.classification import ClassificationData, Split
from compressbench.data.datasets import Protocol, info
from compressbench.data.incremental import ClassIncrementalData, in_sessions
from compressbench.errors import UserError
from compressbench.seeding import generator


@pytest.fixture(scope="module")
def digits(data_root: Path) -> ClassIncrementalData:
    return data.load("digits_sessions", data_root / "data", seed=3)


def labelled(labels: list[int], name: str = "digits") -> ClassificationData:
    """An image per label whose pixels are its position."""
    split = Split(torch.arange(len(labels)).float().view(-1, 1, 1, 1), torch.tensor(labels))
    return ClassificationData(info(name), split, split, split)


def test_published_protocols() -> None:
    cifar, cub = data.protocol("cifar100_sessions"), data.protocol("cub200_sessions")
    assert cifar.session_len == (60, 5, 5, 5, 5, 5, 5, 5, 5) and cub.session_len == (100, *[10] * 10)
    assert cifar.shots == cub.shots == 5
    sessions = [entry for entry in data.DATASETS.values() if entry.protocol]
    assert len(sessions) == 4
    for entry in sessions:
        assert sum(data.protocol(entry.info.name).session_len) == entry.info.classes
    shots = [index for row in cifar.few_shot for index in row]
    assert [len(row) for row in cifar.few_shot] == [25] * 8
    assert len(set(shots)) == 200 and min(shots) >= 0 and max(shots) < 50_000
    tests = [100 * seen for seen in accumulate(cifar.session_len)]
    assert tests == [6000, 6500, 7000, 7500, 8000, 8500, 9000, 9500, 10_000]


def test_sessions_have_disjoint_classes_and_five_shots_of_each(digits: ClassIncrementalData) -> None:
    assert set(digits.train.labels.tolist()) == set(digits.validation.labels.tolist()) == set(range(6))
    for draw in range(digits.draws):
        for session, classes in ((1, (6, 7)), (2, (8, 9))):
            shots = digits.shots(session, draw)
            assert sorted(shots.labels.tolist()) == sorted(5 * classes)
            assert len(shots.images.flatten(1).unique(dim=0)) == 10
    assert digits.test.labels.bincount().min() > 0 and len(digits.test) == 397


def test_base_has_all_its_training_images_and_nobody_a_test_image(
    digits: ClassIncrementalData, data_root: Path
) -> None:
    source = data.load("digits", data_root / "data")
    order = torch.randperm(10, generator=generator(3, "class order"))
    base = sum(int((source.train.labels == label).sum()) for label in order[:6])
    assert len(digits.train) == base
    assert torch.equal(digits.test.images, source.test.images)
    assert torch.equal(order[digits.test.labels], source.test.labels)
    seen = digits.shots(1, 0).images.flatten(1)
    assert (seen[:, None] == source.train.images.flatten(1)).all(2).any(1).all()


def test_order_depends_on_the_seed_and_shots_on_the_draw(digits: ClassIncrementalData, data_root: Path) -> None:
    again, other = (data.load("digits_sessions", data_root / "data", seed=seed) for seed in (3, 4))
    assert torch.equal(again.test.labels, digits.test.labels)
    assert torch.equal(again.shots(2, 1).images, digits.shots(2, 1).images)
    assert not torch.equal(other.test.labels, digits.test.labels)
    assert not torch.equal(digits.shots(1, 0).images, digits.shots(1, 1).images)


def test_more_shots_than_images_is_an_error() -> None:
    with pytest.raises(UserError, match="needs 3 images of class"):
        in_sessions(labelled([*range(10)] * 2), Protocol((6, 4), shots=3), 0, info("digits"))


def test_sessions_that_do_not_cover_the_classes_are_an_error() -> None:
    with pytest.raises(UserError, match="sums to 9, but there are 10 classes"):
        in_sessions(labelled([*range(10)] * 5), Protocol((6, 3)), 0, info("digits"))


def test_published_shots_are_taken_in_the_natural_order_and_checked() -> None:
    source = labelled([*range(10)] * 2)
    few = ((8, 18, 9, 19),)
    view = in_sessions(source, Protocol((8, 2), shuffled=False, few_shot=few), 0, info("digits"))
    assert view.draws == 1 and view.shots(1, 0).images.flatten().tolist() == [8, 18, 9, 19]
    assert view.shots(1, 0).labels.tolist() == [8, 8, 9, 9]
    with pytest.raises(UserError, match="show other classes"):
        in_sessions(source, Protocol((8, 2), shuffled=False, few_shot=((7, 18, 9, 19),)), 0, info("digits"))
    with pytest.raises(UserError, match="need all training images"):
        in_sessions(source, Protocol((8, 2), shuffled=False, few_shot=((8, 20, 9, 19),)), 0, info("digits"))


def test_no_validation_where_the_published_split_leaves_none() -> None:
    source = labelled([*range(10)] * 2)
    source = ClassificationData(
        source.info, source.train, Split(source.train.images[:0], source.train.labels[:0]), source.test
    )
    view = in_sessions(source, Protocol((8, 2), shots=2), 0, info("digits"))
    assert len(view.validation) == 0 and len(view.train) == 16


def test_crops_pad_as_told() -> None:
    split = Split(torch.ones(4, 1, 8, 8), torch.arange(4))
    wide = data.ClassificationBatches(split, 4, 0, "crop_flip", padding=7)
    assert max((wide(step)[0] == 0).float().mean().item() for step in range(9)) > 0.7
    narrow = data.ClassificationBatches(split, 4, 0, "crop_flip")
    assert max((narrow(step)[0] == 0).float().mean().item() for step in range(9)) < 0.25


def test_sessions_of_image_files_have_the_images_of_sessions_in_memory(birds: Path) -> None:
    form = ImageFolder.model_validate({"kind": "image_folder", "path": str(birds), "size": 16, "validation": 0})
    source = data.load("birds", birds, own=form)
    assert isinstance(source, ClassificationData)
    parts = (source.train, source.validation, source.test)
    memory = ClassificationData(source.info, *(Split(part.images_at(slice(None)), part.labels) for part in parts))
    one, other = (in_sessions(read, Protocol((1, 1, 1), shots=2), 0, source.info) for read in (source, memory))
    for split, expected in ((one.train, other.train), (one.shots(2, 0), other.shots(2, 0)), (one.test, other.test)):
        assert torch.equal(split.labels, expected.labels)
        assert torch.equal(split.images_at(slice(None)), expected.images_at(slice(None)))
