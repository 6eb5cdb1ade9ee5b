"""The data sets that a plan reads: their hashes, what is fetched, and what has to be there before anything starts."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from compressbench.config import Scale
from compressbench.data import versioning
from compressbench.errors import UserError
from compressbench.plan import Run
from compressbench.plan.datasets import DataSets

RECIPE = {"epochs": 1, "lr": 0.1}
PAIR = {"architecture": "resnet", "scratch": RECIPE, "pretrain": RECIPE, "finetune": RECIPE}
BIRDS = {"kind": "image_folder", "path": "birds", "size": 16, "hash": "all"}


def data_sets(root: Path, *names: str, **own: dict) -> DataSets:
    pairs = {f"{name}/net": PAIR for name in names}
    scale = Scale.model_validate({"seeds": [0], "comparisons": {"all": list(pairs)}, "pairs": pairs, "datasets": own})
    return DataSets(root, scale, [Run("mine", name, "net", "dense", "plain", 0) for name in names])


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that pins the digits, with two birds of its own."""
    monkeypatch.delenv("COMPRESSBENCH_DATA", raising=False)
    files = {"digits/digits.csv": "1", "fashion_mnist/train": "2"}
    pin = {"outs": [{"md5": versioning.folder_hash(files)}], "meta": {"files": files}}
    (tmp_path / "data.dvc").write_text(yaml.safe_dump(pin), encoding="utf-8")
    for part in ("train", "val"):
        for label in ("jay", "owl"):
            folder = tmp_path / "data/external/birds" / part / label
            folder.mkdir(parents=True)
            Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(folder / "a.png")
    return tmp_path


def test_only_what_is_read_is_fetched(root: Path) -> None:
    pinned = versioning.pinned_hashes(root)
    assert data_sets(root, "digits", "digits_sessions").fetched == {"digits": pinned["digits"]}
    assert data_sets(root, "birds", birds=BIRDS).fetched == {}
    fetched = data_sets(root, "cifar10", "fashion_mnist", "imagenet").fetched
    assert fetched.keys() == {"cifar10", "fashion_mnist"} and fetched["fashion_mnist"] == pinned["fashion_mnist"]


def test_the_pin_is_not_needed_where_nothing_pinned_is_read(root: Path) -> None:
    (root / "data.dvc").unlink()
    sets = data_sets(root, "birds", "cifar100", birds=BIRDS)
    assert set(sets.fetched) == {"cifar100"} and all(sets.hash(entry) for entry in sets.read.values())
    with pytest.raises(UserError, match=r"data\.dvc is missing"):
        _ = data_sets(root, "digits").fetched


def test_all_that_is_missing_is_named_before_anything_starts(root: Path) -> None:
    sets = data_sets(root, "imagenet", "cub200_sessions", "digits", "birds", birds=BIRDS)
    with pytest.raises(UserError) as caught:
        sets.check()
    sentences = str(caught.value).split("\n")
    assert len(sentences) == 2 and all("COMPRESSBENCH_DATA" in sentence for sentence in sentences)
    assert "imagenet" in sentences[0] + sentences[1] and "CUB-200-2011" in sentences[0] + sentences[1]
    data_sets(root, "digits", "birds", birds=BIRDS).check()


def test_a_plan_without_the_data_has_no_hash(root: Path) -> None:
    sets = data_sets(root, "imagenet")
    assert [sets.hash(entry) for entry in sets.read.values()] == [None]
    sets.renew()
    assert not (root / "results").exists()


def test_changed_images_have_another_hash_from_the_next_plan_on(root: Path) -> None:
    def planned(renew: bool) -> str | None:
        sets = data_sets(root, "birds", birds=BIRDS)
        if renew:
            sets.renew()
        return sets.hash(sets.read["birds"])

    before = planned(renew=True)
    assert before is not None and before.startswith("all-")
    (root / "data/external/birds/train/jay/a.png").write_bytes(b"another")
    assert planned(renew=False) == before  # a stage of the plan before
    after = planned(renew=True)
    assert after != before and planned(renew=False) == after


def test_a_data_set_of_ones_own_takes_the_place_of_the_suites(root: Path) -> None:
    sets = data_sets(root, "imagenet", imagenet={**BIRDS, "classes": 1000})
    run = Run("mine", "imagenet", "net", "dense", "plain", 0)
    about = sets.of(run).info
    assert (about.name, about.size, about.classes) == ("imagenet", 16, 1000)
    assert sets.own(run) is not None
    sets.check()


def test_a_data_set_that_no_pair_reads_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"datasets\.birds is read by no pair"):
        data_sets(Path(), "digits", birds=BIRDS)
