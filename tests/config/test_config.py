"""Bad configuration ends before any job starts, with one sentence that names the file and the key."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from compressbench import models
from compressbench.config import Declaration, MethodConfig, Recipe, Setting, Workload, discovery, load_scale, parse
from compressbench.data import versioning
from compressbench.errors import UserError
from compressbench.method import Method, loading
from compressbench.method.context import Recipes
from compressbench.plan import Plan, Run
from tests.conftest import ROOT


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one scale and one toy method, and no code."""
    (tmp_path / "config").mkdir()
    recipe = {"epochs": 1, "lr": 0.1}
    pair = {"architecture": "plain", "scratch": recipe, "pretrain": recipe, "finetune": recipe}
    (tmp_path / "config/smoke.yaml").write_text(
        yaml.safe_dump(
            {"seeds": [0], "comparisons": {"blocks": ["digits/plain_mini"]}, "pairs": {"digits/plain_mini": pair}}
        ),
        encoding="utf-8",
    )
    (tmp_path / "data.dvc").write_text(yaml.safe_dump(pin(PINNED)), encoding="utf-8")
    monkeypatch.setattr(loading, "method_class", lambda root, name: ToyMethod)
    declare(tmp_path, "toy")
    return tmp_path


PINNED = {"digits/digits.csv": "1", "fashion_mnist/a": "2", "fashion_mnist/b": "3"}


def pin(files: dict[str, str]) -> dict:
    return {"outs": [{"md5": versioning.folder_hash(files)}], "meta": {"files": files}}


class ToyConfig(MethodConfig):
    ratio: float = 0.5
    table: Path | None = None


class ToyMethod(Method):
    Config = ToyConfig


def declare(root: Path, name: str, **changes: object) -> None:
    content = {
        "title": name, "paper": "none", "family": "filter", "task": ["classification"], "stages": ["compress"],
        "starts_from": "dense", "settings": {"half": {}}, "scales": {"smoke": {"runs": {"blocks": ["half"]}}},
    }  # fmt: skip
    folder = root / "methods" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(content | changes), encoding="utf-8")
    forget()


def forget() -> None:
    """The files are read again when next asked for."""
    discovery.own_files.cache_clear()
    discovery.files.cache_clear()
    discovery.declaration.cache_clear()


def test_unknown_scale_is_named_with_the_known_ones(tree: Path) -> None:
    with pytest.raises(UserError, match=r"unknown scale 'huge'.*smoke"):
        load_scale(tree, "huge")


def test_unknown_method_is_named_with_the_known_ones(tree: Path) -> None:
    with pytest.raises(UserError, match=r"unknown method 'optgg'.*toy"):
        Plan(tree, "smoke", ["optgg"])


@pytest.mark.parametrize("name", ["block", "digits/plain_mini"])
def test_unknown_comparison_names_file_and_key_and_the_known_ones(tree: Path, name: str) -> None:
    declare(tree, "toy", scales={"smoke": {"runs": {name: ["half"]}}})
    where = r"methods/toy/config.yaml: key scales.smoke.runs: comparison"
    with pytest.raises(UserError, match=rf"{where} '{name}' is not in config/smoke.yaml; known: blocks"):
        Plan(tree, "smoke")


def test_unknown_pair_of_a_comparison_names_file_and_key_and_the_known_ones(tree: Path) -> None:
    edit(tree / "config/smoke.yaml", lambda c: c["comparisons"]["blocks"].append("digits/alexnet"))
    with pytest.raises(
        UserError, match=r"config/smoke.yaml.*comparisons.blocks.*'digits/alexnet'; known: digits/plain"
    ):
        load_scale(tree, "smoke")


def test_a_pair_on_which_nothing_would_run_is_named(tree: Path) -> None:
    edit(tree / "config/smoke.yaml", lambda c: c["pairs"].update({"digits/idle": c["pairs"]["digits/plain_mini"]}))
    with pytest.raises(UserError, match=r"config/smoke.yaml.*pairs.digits/idle is in no comparison.*: blocks"):
        load_scale(tree, "smoke")


def test_a_comparison_may_be_without_pairs(tree: Path) -> None:
    """So that taking out a network changes no method."""
    edit(tree / "config/smoke.yaml", lambda c: c["comparisons"].update(filters=[]))
    declare(tree, "toy", scales={"smoke": {"runs": {"blocks": ["half"], "filters": ["half"]}}})
    assert Plan(tree, "smoke").runs == [RUN]


def test_a_pair_that_two_comparisons_have_runs_every_setting_once(tree: Path) -> None:
    edit(tree / "config/smoke.yaml", lambda c: c["comparisons"].update(filters=["digits/plain_mini"]))
    runs = {"blocks": ["half"], "filters": ["half", "third"]}
    declare(tree, "toy", settings={"half": {}, "third": {}}, scales={"smoke": {"runs": runs}})
    assert Plan(tree, "smoke").runs == [RUN, replace(RUN, setting="third")]


def test_a_new_network_is_an_entry_of_the_scale_and_changes_no_method(tree: Path) -> None:
    add_pair(tree, "digits/wide")
    assert Plan(tree, "smoke").runs == [RUN, replace(RUN, model="wide")]


def test_a_run_may_be_restricted_to_some_pairs(tree: Path) -> None:
    add_pair(tree, "digits/wide")
    plan = Plan(tree, "smoke", pairs=["digits/wide", "digits/wide"])
    assert plan.runs == [replace(RUN, model="wide")] and plan.pairs == ("digits/wide",)
    with pytest.raises(
        UserError, match=r"pairs: 'wide' is not a pair of config/smoke.yaml; known: digits/plain_mini, dig"
    ):
        Plan(tree, "smoke", pairs=["wide"])
    edit(
        tree / "config/smoke.yaml",
        lambda c: c["comparisons"].update(filters=["digits/wide"], blocks=["digits/plain_mini"]),
    )
    with pytest.raises(UserError, match=r"none of the methods toy declares the scale 'smoke' with runs on digits/wide"):
        Plan(tree, "smoke", pairs=["digits/wide"])


def test_a_scale_is_a_file_and_who_declares_nothing_for_it_is_no_part_of_it(tree: Path) -> None:
    shutil.copy(tree / "config/smoke.yaml", tree / "config/my_cluster.yaml")
    with pytest.raises(UserError, match=r"none of the methods toy declares the scale 'my_cluster' in its config\.yaml"):
        Plan(tree, "my_cluster")
    declare(tree, "other", scales={"my_cluster": {"runs": {"blocks": ["half"]}}})
    assert [run.name for run in Plan(tree, "my_cluster").runs] == ["my_cluster/digits/plain_mini/other/half/seed0"]
    assert Plan(tree, "smoke").runs == [RUN]


def test_unknown_setting_names_file_and_key(tree: Path) -> None:
    declare(tree, "toy", scales={"smoke": {"runs": {"blocks": ["third"]}}})
    with pytest.raises(UserError, match=r"methods/toy/config.yaml.*scales.smoke.runs.blocks.*'third'"):
        Plan(tree, "smoke")


@pytest.mark.parametrize("seeds", [["one"], [-1], [True], [0.5]])
def test_wrong_seed(tree: Path, seeds: list) -> None:
    with pytest.raises(UserError, match="is not a seed"):
        Plan(tree, "smoke", None, seeds)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"epochs": 0}, "epochs"),
        ({"lr": "fast"}, "lr"),
        ({"momentum": 1.5}, "momentum"),
        ({"speed": 1}, "speed"),
        ({"lr": None}, "lr"),
    ],
)
def test_wrong_recipe_names_the_key(change: dict, key: str) -> None:
    with pytest.raises(UserError, match=rf"config/x.yaml: key {key}: "):
        parse(Recipe, {"epochs": 1, "lr": 0.1} | change, "config/x.yaml")


def test_missing_key_is_named() -> None:
    with pytest.raises(UserError, match=r"key epochs: Field required"):
        parse(Recipe, {"lr": 0.1}, "config/x.yaml")


def test_broken_yaml_names_the_file(tree: Path) -> None:
    (tree / "config/smoke.yaml").write_text("seeds: [0", encoding="utf-8")
    with pytest.raises(UserError, match=r"smoke.yaml is not valid YAML"):
        load_scale(tree, "smoke")


def test_a_job_reads_the_declaration_of_its_method_only(tree: Path) -> None:
    declare(tree, "other", stages=["compress", "no_such_stage"])
    assert list(Plan(tree, "smoke", ["toy"]).declarations) == ["toy"]
    with pytest.raises(UserError, match=r"methods/other/config\.yaml"):
        Plan(tree, "smoke")


def test_every_declaration_and_scale_of_the_project_is_valid() -> None:
    forget()
    for path in (ROOT / "config").glob("*.yaml"):
        Plan(ROOT, path.stem).validate()


RUN = Run("smoke", "digits", "plain_mini", "toy", "half", 0)
ALL = ("pretrain", "compress", "evaluate", "latency")


def digests(root: Path, run: Run = RUN) -> dict[str, str]:
    forget()
    plan = Plan(root, "smoke", [run.method], [run.seed])
    return {stage: plan.job(run, stage).digest for stage in ALL}


def repeated(root: Path, before: dict[str, str], run: Run = RUN) -> set[str]:
    """The stages that a change since `before` concerns."""
    after = digests(root, run)
    return {stage for stage in ALL if after[stage] != before[stage]}


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def of_the_pair(key: str, value: object) -> Callable[[dict], object]:
    """A change of config/smoke.yaml."""
    return lambda content: content["pairs"]["digits/plain_mini"].update({key: value})


OTHER = {"epochs": 2, "lr": 0.1}
AFTER_THE_DENSE_MODEL = {"compress", "evaluate", "latency"}


@pytest.mark.parametrize(
    ("change", "from_dense", "from_scratch"),
    [
        (of_the_pair("pretrain", OTHER), set(ALL), {"pretrain"}),
        (of_the_pair("scratch", OTHER), AFTER_THE_DENSE_MODEL, AFTER_THE_DENSE_MODEL),
        (of_the_pair("finetune", OTHER), AFTER_THE_DENSE_MODEL, AFTER_THE_DENSE_MODEL),
        (of_the_pair("images", 100), set(ALL), set(ALL)),
        (of_the_pair("processes", 2), set(ALL), set(ALL)),
        (of_the_pair("processes", 1), set(), set()),  # the default
        (of_the_pair("arguments", {"widths": [8, 8]}), set(ALL), set(ALL)),
        (of_the_pair("teacher", "digits/other"), set(), set()),
        (lambda content: content.update(device="auto"), set(ALL), set(ALL)),
        (lambda content: content.update(latency={"rounds": 31}), {"latency"}, {"latency"}),
    ],
)
def test_a_change_of_the_scale_repeats_what_reads_it(
    tree: Path, change: Callable[[dict], object], from_dense: set[str], from_scratch: set[str]
) -> None:
    declare(tree, "alone", starts_from="scratch")
    alone = replace(RUN, method="alone")
    before, before_alone = digests(tree), digests(tree, alone)
    edit(tree / "config/smoke.yaml", change)
    assert repeated(tree, before) == from_dense
    assert repeated(tree, before_alone, alone) == from_scratch


def test_several_processes_train_and_one_measures(tree: Path) -> None:
    edit(tree / "config/smoke.yaml", of_the_pair("processes", 2))
    plan = Plan(tree, "smoke", ["toy"])
    found = {stage: plan.job(RUN, stage).workload.processes for stage in ALL}
    assert found == {"pretrain": 2, "compress": 2, "evaluate": 1, "latency": 1}


RECIPE = {"epochs": 1, "lr": 0.1, "batch_size": 64}


def test_what_a_recipe_does_not_say_is_no_part_of_its_digest() -> None:
    defaults = {"precision": "fp32", "accumulate": 1, "compile": False, "checkpoint_steps": None}
    assert Recipe(**RECIPE, **defaults).model_dump() == Recipe(**RECIPE).model_dump()
    assert not set(defaults) & set(Recipe(**RECIPE).model_dump())


def test_batches_are_divided_into_equal_parts() -> None:
    assert Recipe(**RECIPE, accumulate=4).accumulate == 4
    with pytest.raises(ValueError, match="accumulate divides no batch of 64 into equal parts"):
        Recipe(**RECIPE, accumulate=3)
    scratch = Recipe(**RECIPE, accumulate=4)
    assert Workload(architecture="plain", scratch=scratch, processes=16).processes == 16
    with pytest.raises(ValueError, match=r"scratch.batch_size 64 cannot .* for 32 processes with accumulate: 4"):
        Workload(architecture="plain", scratch=scratch, processes=32)


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({"settings": {"half": {"ratio": 0.4}}}, AFTER_THE_DENSE_MODEL),
        ({"settings": {"half": {}, "other": {"ratio": 0.4}}}, set()),
        ({"settings": {"half": {"ratio": 0.5}}}, set()),  # the default
        ({"batches": [100]}, {"latency"}),
        ({"family": "block"}, AFTER_THE_DENSE_MODEL),  # sparse networks get fresh batch-norm statistics
        ({"family": "quantization"}, set()),
        ({"title": "T", "paper": "P"}, set()),
        ({"settings": {"half": {"level": {"sparsity": 0.5}, "variant": "with words"}}}, set()),
        ({"level": {"filters": "ratio"}, "settings": {"half": {"ratio": 0.5}}}, set()),
        ({"starts_from": "scratch"}, AFTER_THE_DENSE_MODEL),
    ],
)
def test_a_change_of_the_method_repeats_what_reads_it(tree: Path, changes: dict, stages: set[str]) -> None:
    before = digests(tree)
    declare(tree, "toy", **changes)
    assert repeated(tree, before) == stages


def test_a_default_of_the_method_is_part_of_what_made_a_result(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(Method):
        class Config(ToyConfig):
            ratio: float = 0.25

    before = digests(tree)
    monkeypatch.setattr(loading, "method_class", lambda root, name: Other)
    assert repeated(tree, before) == AFTER_THE_DENSE_MODEL


def test_so_is_a_file_that_the_configuration_names(tree: Path) -> None:
    (tree / "table.json").write_text("1", encoding="utf-8")
    declare(tree, "toy", settings={"half": {"table": "table.json"}})
    before = digests(tree)
    (tree / "table.json").write_text("2", encoding="utf-8")
    assert repeated(tree, before) == AFTER_THE_DENSE_MODEL
    (tree / "table.json").unlink()
    with pytest.raises(UserError, match=r"cannot read table\.json"):
        digests(tree)


def test_newly_pinned_data_repeat_what_reads_them(tree: Path) -> None:
    before = digests(tree)
    (tree / "data.dvc").write_text(yaml.safe_dump(pin(PINNED | {"fashion_mnist/a": "9"})), encoding="utf-8")
    assert repeated(tree, before) == set()
    (tree / "data.dvc").write_text(yaml.safe_dump(pin(PINNED | {"digits/digits.csv": "9"})), encoding="utf-8")
    assert repeated(tree, before) == set(ALL)


BIRDS = {"kind": "image_folder", "path": "nowhere", "size": 16, "classes": 10}


def write_birds_scale(tree: Path, augmentation: str, **own: object) -> None:
    """The scale of the tree on a folder of images that takes the place of the digits."""
    content = yaml.safe_load((tree / "config/smoke.yaml").read_text(encoding="utf-8")) | {
        "datasets": {"digits": BIRDS | own}
    }
    content["pairs"]["digits/plain_mini"]["scratch"] = {"epochs": 1, "lr": 0.1, "augmentation": augmentation}
    (tree / "config/smoke.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def test_a_folder_of_images_is_part_of_every_digest_and_its_place_of_none(tree: Path) -> None:
    before = digests(tree)
    write_birds_scale(tree, "resized_crop_flip")
    own = digests(tree)
    assert repeated(tree, before) == set(ALL)
    write_birds_scale(tree, "resized_crop_flip", path="elsewhere")
    assert digests(tree) == own
    write_birds_scale(tree, "resized_crop_flip", resize=20)
    assert repeated(tree, own) == set(ALL)


def test_images_of_any_size_are_not_padded(tree: Path) -> None:
    write_birds_scale(tree, "crop_flip")
    with pytest.raises(UserError, match=r"pairs\.digits/plain_mini\.scratch\.augmentation .* resized_crop_flip"):
        Plan(tree, "smoke").validate()
    write_birds_scale(tree, "resized_crop_flip")
    Plan(tree, "smoke").validate()  # without the images: a plan can be looked at


def test_sessions_read_the_data_that_they_divide() -> None:
    plan = Plan(ROOT, "smoke")
    hashes = versioning.pinned_hashes(ROOT)
    found = {run.dataset: plan.job(run, "evaluate").data_hash for run in plan.runs}
    assert found["digits_sessions"] == found["digits"] == hashes["digits"]
    assert found["photographs"] == hashes["photographs"] != hashes["digits"]


def test_a_stage_gets_the_recipes_that_it_reads_and_no_others(tree: Path) -> None:
    plan = Plan(tree, "smoke")
    recipes = {stage: Recipes(plan.job(RUN, stage).workload) for stage in ALL}
    assert vars(recipes["pretrain"]).keys() == {"pretrain"}
    assert vars(recipes["compress"]).keys() == {"scratch", "finetune"}
    assert not vars(recipes["evaluate"]) and not vars(recipes["latency"])
    with pytest.raises(AttributeError, match="does not read the recipe pretrain; it has scratch, finetune"):
        _ = recipes["compress"].pretrain


MINI = {"in_channels": 1, "widths": [8, 12], "strides": [2, 1]}


@pytest.mark.parametrize(
    ("method", "config", "architecture", "arguments", "message"),
    [
        ("one_by_n", {"n": 8}, "plain", MINI, r"body\.1\.conv: n = 8 does not divide its 12 output channels; choose"),
        (
            "random_blocks",
            {"n": 8},
            "plain",
            MINI,
            r"body\.1\.conv: n = 8 does not divide its 12 output channels; choose",
        ),
        ("subp", {"n": 8}, "plain", MINI, r"body\.1\.conv: n = 8 does not divide its 12 output channels; choose"),
        ("subp", {"n": 4}, "plain", {"widths": [8], "strides": [1]}, "no convolution of this network can carry blocks"),
        ("nm", {"n": 2, "m": 64}, "plain", MINI, "m = 64 divides the input channels of no layer"),
        (
            "pss_net",
            {"constraints": [{"start": 1, "stop": 5, "step": 1}]},
            "plain",
            MINI,
            "Plain has no switchable widths",
        ),
        ("lottery_jackpots", {}, "mobilenet_v3_small", {}, "leaves the classifier dense, but the last layer is"),
    ],
)
def test_a_network_that_a_configuration_does_not_fit_is_found_before_anything_runs(
    method: str, config: dict, architecture: str, arguments: dict, message: str
) -> None:
    cls = loading.method_class(ROOT, method)
    with torch.device("meta"):
        network = models.build(architecture, **arguments)
    with pytest.raises(UserError, match=message):
        cls(parse(cls.Config, config, method)).check(network)


def test_planning_names_method_setting_and_pair_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(ROOT, "smoke", ["random_blocks"])
    run = plan.runs[0]
    pair = plan.scale.pairs[run.pair].model_copy(update={"architecture": "plain", "arguments": MINI})
    monkeypatch.setitem(plan.scale.pairs, run.pair, pair)
    declared = plan.declarations["random_blocks"]
    wide = {run.setting: Setting(**declared.settings[run.setting].hyperparameters | {"n": 8})}
    changed = declared.model_copy(update={"settings": declared.settings | wide})
    monkeypatch.setitem(plan.declarations, "random_blocks", changed)
    with pytest.raises(UserError, match=f"random_blocks, setting {run.setting}, on {run.pair}: body.1.conv: n = 8"):
        plan.validate()
    broken = pair.model_copy(update={"architecture": "vit", "arguments": {"image_size": 30, "patch": 4}})
    monkeypatch.setitem(plan.scale.pairs, run.pair, broken)
    with pytest.raises(UserError, match=f"key pairs.{run.pair}: architecture vit: "):
        plan.validate()


def test_equal_total_budgets_where_scratch_meets_dense() -> None:
    """Methods from scratch and methods from the dense model see equally many images on the pairs where both run."""
    for scale in ("smoke", "desk"):
        for pair in load_scale(ROOT, scale).pairs.values():
            if pair.architecture in ("plain", "vgg") or pair.arguments.get("shortcut") == "pad":
                assert pair.scratch.epochs == pair.pretrain.epochs + pair.finetune.epochs


def test_a_setting_may_train_otherwise_than_its_pair(tree: Path) -> None:
    run, other = (Run("smoke", "digits", "plain_mini", "toy", name, 0) for name in ("half", "third"))
    settings, before = {"half": {}, "third": {}}, Plan(tree, "smoke").job(run, "compress").digest
    scale = {"runs": {"blocks": ["half", "third"]}, "recipes": {"half": {"finetune": {"lr": 0.5}}}}
    declare(tree, "toy", settings=settings, scales={"smoke": scale})
    plan = Plan(tree, "smoke")
    assert (plan.pair(run).finetune.lr, plan.pair(run).finetune.epochs, plan.pair(run).scratch.lr) == (0.5, 1, 0.1)
    assert plan.pair(other) == plan.scale.pairs["digits/plain_mini"]
    assert plan.job(run, "compress").digest != before
    declare(tree, "toy", settings=settings, scales={"smoke": scale | {"recipes": {"half": {"finetune": {"speed": 1}}}}})
    with pytest.raises(UserError, match=r"methods/toy/config.yaml, scales.smoke.recipes.half.finetune: key speed"):
        Plan(tree, "smoke").validate()


def test_equal_budgets_are_never_overridden() -> None:
    for scale in ("smoke", "desk"):
        assert not any(d.scales[scale].recipes for d in Plan(ROOT, scale).declarations.values() if scale in d.scales)


def derive(root: Path, **content: Any) -> None:
    text = yaml.safe_dump({"derived_from": "smoke"} | content)
    (root / "config/brief.yaml").write_text(text, encoding="utf-8")


def test_a_derived_scale_differs_in_what_it_says_and_in_nothing_else(tree: Path) -> None:
    recipe = {"finetune": {"lr": 0.5, "epochs": 9, "steps_per_epoch": 7}}
    scale = {"runs": {"blocks": ["half"]}, "config": {"ratio": 0.25}, "recipes": {"half": recipe}}
    declare(tree, "toy", scales={"smoke": scale})
    derive(tree, seeds=[3], budgets={"finetune": {"epochs": 2, "steps_per_epoch": 1}, "pretrain": {"batch_size": 8}})
    plan, base = Plan(tree, "brief"), Plan(tree, "smoke", seeds=[3])
    assert [replace(run, scale="smoke") for run in plan.runs] == base.runs
    for run, original in zip(plan.runs, base.runs, strict=True):
        own, other = plan.pair(run), base.pair(original)
        assert own.finetune == other.finetune.model_copy(update={"epochs": 2, "steps_per_epoch": 1})
        assert own.pretrain == other.pretrain.model_copy(update={"batch_size": 8})
        assert own.scratch == other.scratch
        assert plan.job(run, "compress").configuration == base.job(original, "compress").configuration


def test_a_derived_scale_may_have_comparisons_and_pairs_of_its_own(tree: Path) -> None:
    base = load_scale(tree, "smoke")
    (old,) = base.comparisons["blocks"]
    pair = base.pairs[old].model_dump(exclude_none=True) | {"images": 64}
    derive(tree, comparisons={"blocks": ["digits/other"], "more": []}, pairs={"digits/other": pair})
    scale = load_scale(tree, "brief")
    assert scale.comparisons == base.comparisons | {"blocks": ("digits/other",), "more": ()}
    assert scale.pairs["digits/other"].images == 64
    in_use = {name for names in scale.comparisons.values() for name in names}
    assert set(scale.pairs) == in_use | {p.teacher for p in scale.pairs.values() if p.teacher}
    assert old not in scale.pairs or old in in_use
    assert all(scale.pairs[name] == base.pairs[name] for name in scale.pairs if name != "digits/other")


def test_a_scale_may_be_derived_from_a_derived_one(tree: Path) -> None:
    declare(tree, "toy", scales={"smoke": {"runs": {"blocks": ["half"]}}, "brief": {"config": {"ratio": 0.25}}})
    derive(tree, seeds=[3])
    text = yaml.safe_dump({"derived_from": "brief", "seeds": [4]})
    (tree / "config/briefer.yaml").write_text(text, encoding="utf-8")
    plan = Plan(tree, "briefer")
    assert plan.scale.lineage == ("brief", "smoke") and plan.seeds == (4,)
    at_scale = plan.declarations["toy"].scales["briefer"]
    assert at_scale.runs == {"blocks": ("half",)} and at_scale.config == {"ratio": 0.25}


def test_a_method_may_say_more_for_a_derived_scale(tree: Path) -> None:
    scale = {"runs": {"blocks": ["half"]}, "config": {"keep_first": True}}
    declare(tree, "toy", scales={"smoke": scale, "brief": {"config": {"keep_last": True}}})
    found = discovery.declaration(tree, "toy").at("brief", "smoke")
    assert found is not None
    assert found.runs == {"blocks": ("half",)}
    assert found.config == {"keep_first": True, "keep_last": True}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"comparisons": {"blocks": ["digits/new"]}}, r"comparisons names the unknown pair|comparisons.blocks names"),
        ({"comparisons": {"blocks": None}}, r"config/brief.yaml: key comparisons.blocks"),
        ({"pairs": {"digits/new": {"speed": 1}}}, r"config/brief.yaml: key pairs.digits/new"),
        ({"multiples": {"digits/new": 2}}, r"multiples names the unknown pair 'digits/new'"),
        ({"derived_from": "brief"}, r"config/brief.yaml: key derived_from: a scale cannot be derived from itself"),
        ({"derived_from": "huge"}, r"unknown scale 'huge'"),
        ({"only": ["imagenet"]}, r"config/brief.yaml: key only: no pair of smoke has one of the data sets"),
        ({"budgets": {"finetune": {"lr": 1}}}, r"config/brief.yaml, budgets: key finetune.lr"),
    ],
)
def test_what_is_wrong_in_a_derived_scale_is_named(tree: Path, content: dict[str, Any], message: str) -> None:
    derive(tree, **content)
    with pytest.raises(UserError, match=message):
        load_scale(tree, "brief")


def test_the_rehearsal_is_all_of_imagenet_at_paper_scale_in_a_step_or_two() -> None:
    plan, paper = Plan(ROOT, "rehearsal"), Plan(ROOT, "paper", seeds=[0])
    assert [replace(run, scale="paper") for run in plan.runs] == [r for r in paper.runs if r.dataset == "imagenet"]
    for run in plan.runs:
        pair = plan.pair(run)
        steps = [
            recipe.epochs * (recipe.steps_per_epoch or 0) for recipe in (pair.pretrain, pair.scratch, pair.finetune)
        ]
        assert steps == [2, 3, 2], run.name
        assert "latency" not in plan.stages(run)
        own = [value for _, value in plan.job(run, "compress").configuration or () if isinstance(value, Recipe)]
        assert all((recipe.epochs, recipe.steps_per_epoch) == (2, 1) for recipe in own)


def add_pair(root: Path, name: str, teacher: str | None = None) -> None:
    path = root / "config/smoke.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["pairs"][name] = content["pairs"]["digits/plain_mini"] | ({"teacher": teacher} if teacher else {})
    content["comparisons"]["blocks"].append(name)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def test_a_teacher_is_the_dense_model_of_another_pair(tree: Path) -> None:
    add_pair(tree, "digits/plain_thin", "digits/plain_mini")
    edit(tree / "config/smoke.yaml", lambda c: c["comparisons"].update(blocks=[], distillation=["digits/plain_thin"]))
    runs = {"smoke": {"runs": {"distillation": ["half"]}}}
    declare(tree, "toy", starts_from="scratch", scales=runs)
    run = Run("smoke", "digits", "plain_thin", "toy", "half", 3)
    alone = Plan(tree, "smoke")
    alone_paths = alone.job(run, "evaluate").paths
    assert alone.job(run, "compress").paths == [] and alone.teachers == []
    declare(tree, "toy", starts_from="scratch", needs_teacher=True, scales=runs)
    plan = Plan(tree, "smoke", seeds=[3])
    folder = Path("results/smoke/digits/plain_mini/pretrain/seed3")
    assert plan.job(run, "compress").paths == [folder / "model.safetensors", folder / "model.json"]
    assert plan.job(run, "evaluate").paths == alone_paths
    assert [teacher.pair for teacher in plan.teachers] == ["digits/plain_mini"]
    assert plan.job(run, "compress").digest != alone.job(run, "compress").digest


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (None, r"key pairs.digits/plain_thin.teacher is missing, and toy learns from a teacher"),
        ("digits/alexnet", r"teacher: 'digits/alexnet' is no pair of the same data set; known: digits/plain_mini"),
        ("cifar10/vgg", r"teacher: 'cifar10/vgg' is no pair of the same data set; known: digits/plain_mini"),
    ],
)
def test_a_missing_or_unknown_teacher_is_named(tree: Path, teacher: str | None, message: str) -> None:
    add_pair(tree, "digits/plain_thin", teacher)
    add_pair(tree, "cifar10/vgg")
    edit(tree / "config/smoke.yaml", lambda c: c["comparisons"].update(distillation=["digits/plain_thin"]))
    runs = {"smoke": {"runs": {"distillation": ["half"]}}}
    declare(tree, "toy", starts_from="scratch", needs_teacher=True, scales=runs)
    with pytest.raises(UserError, match=message):
        Plan(tree, "smoke").validate()


def test_images_of_another_setting_are_not_synthesized_again() -> None:
    declared = parse(
        Declaration,
        {
            "title": "t", "paper": "p", "family": "quantization", "task": ["classification"], "starts_from": "dense",
            "stages": ["synthesize", "compress"], "settings": {"w4": {}, "w3": {}}, "synthesis_from": {"w3": "w4"},
        },
        "here",
    )  # fmt: skip
    assert declared.synthesis_from == {"w3": "w4"}
    with pytest.raises(UserError, match="unknown setting 'w9'"):
        parse(Declaration, declared.model_dump(exclude={"package"}) | {"synthesis_from": {"w3": "w9"}}, "here")


# ---- pretrained weights, and what is not trained


def bring(root: Path, weights: bytes = b"weights", **recipes: object) -> None:
    """The pair's dense model comes from a file."""
    (root / "mine.pth").write_bytes(weights)
    pretrained = {"source": "file", "file": "mine.pth", "sha256": "0" * 8}

    def change(content: dict) -> None:
        content["pairs"]["digits/plain_mini"] = {"architecture": "plain", "pretrained": pretrained, **recipes}

    edit(root / "config/smoke.yaml", change)


def test_pretrained_weights_take_the_place_of_the_recipe_that_would_make_them(tree: Path) -> None:
    trained = digests(tree)
    bring(tree)
    brought = digests(tree)
    assert all(brought[stage] != trained[stage] for stage in ALL)
    bring(tree, pretrain=OTHER)
    assert digests(tree) == brought
    edit(tree / "config/smoke.yaml", lambda c: c["pairs"]["digits/plain_mini"]["pretrained"].update(sha256="1" * 8))
    assert repeated(tree, brought) == set(ALL)


def test_a_recipe_may_be_missing_where_nothing_trains_by_it(tree: Path) -> None:
    edit(tree / "config/smoke.yaml", lambda c: c["pairs"]["digits/plain_mini"].pop("scratch"))
    with pytest.raises(UserError, match="scratch is missing; only a pair with pretrained weights may leave out"):
        load_scale(tree, "smoke")
    bring(tree)
    Plan(tree, "smoke").validate()
    declare(tree, "toy", stages=["compress", "finetune"])
    with pytest.raises(UserError, match=r"smoke.yaml: key pairs.digits/plain_mini.finetune is missing, and toy trains"):
        Plan(tree, "smoke").validate()
    declare(tree, "toy", starts_from="scratch")
    with pytest.raises(UserError, match=r"key pairs.digits/plain_mini.scratch is missing"):
        Plan(tree, "smoke").validate()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "mine"}, "name goes with every source but file"),
        ({"source": "torchvision"}, "name goes with every source but file"),
        ({"file": None}, "source: file needs file"),
        ({"sha256": "abc"}, "sha256"),
        ({"source": "hub"}, "source"),
        ({"file": "other.pth"}, r"pairs.digits/plain_mini.pretrained: .*other.pth does not exist"),
    ],
)
def test_wrong_weights_name_the_key(tree: Path, change: dict, message: str) -> None:
    bring(tree)
    edit(tree / "config/smoke.yaml", lambda c: c["pairs"]["digits/plain_mini"]["pretrained"].update(change))
    with pytest.raises(UserError, match=message):
        Plan(tree, "smoke").validate()


def test_a_setting_that_is_not_fine_tuned_is_judged_as_it_was_compressed(tree: Path) -> None:
    settings = {"half": {"finetune": False}, "third": {}}
    declare(
        tree,
        "toy",
        family="block",
        stages=["compress", "finetune"],
        settings=settings,
        scales={"smoke": {"runs": {"blocks": ["half", "third"]}}},
    )
    plan, tuned = Plan(tree, "smoke"), replace(RUN, setting="third")
    assert plan.stages(RUN) == ["compress", "evaluate", "latency"] and "finetune" in plan.stages(tuned)
    assert not plan.job(RUN, "compress").recalibrated and plan.job(tuned, "finetune").recalibrated
    assert plan.job(RUN, "evaluate").inputs == {"model": plan.job(RUN, "compress")}


ROUNDED = {"half": {"ratio": 0.5}, "rounded": {"ratio": 0.5, "table": None}}


def test_a_setting_may_start_from_the_finished_network_of_another(tree: Path) -> None:
    runs = {"smoke": {"runs": {"blocks": ["rounded"]}}}
    shared = {"stages": ["compress", "finetune"], "settings": ROUNDED, "network_from": {"rounded": "half"}}
    declare(tree, "toy", family="block", scales=runs, **shared)
    plan, rounded = Plan(tree, "smoke"), replace(RUN, setting="rounded")
    assert plan.stages(rounded) == ["compress", "evaluate", "latency"]
    job, trained = plan.job(rounded, "compress"), plan.job(RUN, "finetune")
    assert job.inputs == {"finished": trained} and trained.recalibrated and not job.recalibrated
    assert job.workload.finetune is None, "it trains nothing"
    assert plan.job(rounded, "evaluate").inputs == {"model": job}
    declare(
        tree, "toy", family="block", scales={"smoke": {"runs": {"blocks": ["half"]}}}, stages=["compress", "finetune"]
    )
    assert Plan(tree, "smoke").job(RUN, "finetune").digest == trained.digest, "the other setting does not know of it"


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"rounded": "third"}, "unknown setting 'third'"),
        ({"rounded": "half", "half": "rounded"}, "starts from a finished network itself"),
        ({"half": "rounded"}, "table differs from that of 'rounded'"),
    ],
)
def test_only_what_is_finished_and_configured_alike_is_started_from(
    tree: Path, shares: dict[str, str], message: str
) -> None:
    settings = {"half": {"ratio": 0.5}, "rounded": {"ratio": 0.5, "table": "bits.csv"}}
    declare(tree, "toy", settings=settings, network_from=shares)
    with pytest.raises(UserError, match=message):
        Plan(tree, "smoke")


def test_without_labels_the_dense_model_is_read_by_the_evaluation(tree: Path) -> None:
    edit(tree / "config/smoke.yaml", of_the_pair("data", "photograph_crops"))
    edit(tree / "config/smoke.yaml", of_the_pair("timed", False))
    plan = Plan(tree, "smoke")
    dense = plan.job(replace(RUN, method="", setting=""), "pretrain")
    assert plan.job(RUN, "evaluate").inputs == {"model": plan.job(RUN, "compress"), "dense": dense}
    assert plan.unlabelled == (RUN.pair,) and plan.stages(RUN) == ["compress", "evaluate"]
    assert plan.job(RUN, "evaluate").data == "photographs"


@pytest.fixture
def own_scale(tmp_path: Path) -> Callable[..., Plan]:
    """A plan of config/own.yaml, whose `methods` a test chooses; no method knows this scale."""
    (tmp_path / "methods").symlink_to(ROOT / "methods")
    (tmp_path / "data.dvc").symlink_to(ROOT / "data.dvc")
    recipe = {"epochs": 5, "batch_size": 64, "lr": 0.1}
    scale = {
        "seeds": [0],
        "comparisons": {"mine": ["digits/plain"]},
        "pairs": {
            "digits/plain": {"architecture": "plain", **dict.fromkeys(("scratch", "pretrain", "finetune"), recipe)}
        },
    }

    def plan(methods: dict[str, Any]) -> Plan:
        (tmp_path / "config").mkdir(exist_ok=True)
        (tmp_path / "config/own.yaml").write_text(yaml.safe_dump(scale | {"methods": methods}), encoding="utf-8")
        return Plan(tmp_path, "own")

    return plan


def test_a_scale_says_what_methods_run_there(own_scale: Callable[..., Plan]) -> None:
    at_finetune = {"global_p90": {"finetune": {"lr": 0.02}}}
    plan = own_scale({
        "magnitude": {"runs": {"mine": ["global_p90"]}, "config": {"keep_last": True}, "recipes": at_finetune},
        "dense": {"runs": {"mine": ["checkpoint"]}},
    })  # fmt: skip
    plan.validate()
    dense, pruned = plan.runs
    assert [(run.method, run.setting, run.pair) for run in plan.runs] == [
        ("dense", "checkpoint", "digits/plain"), ("magnitude", "global_p90", "digits/plain")
    ]  # fmt: skip
    job = plan.job(pruned, "compress")
    assert (job.configuration.keep_last, job.configuration.sparsity) == (True, 0.9)  # type: ignore[union-attr]
    assert (plan.pair(pruned).finetune.lr, plan.pair(dense).finetune.lr) == (0.02, 0.1)


@pytest.mark.parametrize("methods, message", [
    ({"magnitud": {"runs": {"mine": []}}}, r"config/own\.yaml: key methods: unknown method 'magnitud'; methods/ has: "),
    ({"snip": {"runs": {"mine": ["p1"]}}}, r"config/own\.yaml: key methods\.snip names the unknown setting 'p1'; known: p90"),
    ({"snip": {"runs": {"yours": ["p90"]}}}, r"methods\.snip\.runs names the unknown comparison 'yours'; known: mine"),
    ({"snip": {"runs": {"mine": ["p90"]}, "config": {"x": 1}}}, r"and config/own\.yaml \(methods\.snip\): key x: Extra inputs"),
])  # fmt: skip
def test_wrong_methods_of_a_scale_are_named(own_scale: Callable[..., Plan], methods: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        own_scale(methods).validate()


def test_labelled_images_that_are_there_are_part_of_an_evaluation_without_labels(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(tree / "config/smoke.yaml", of_the_pair("data", "photograph_crops"))
    monkeypatch.setenv("COMPRESSBENCH_DATA", str(tree / "brought"))
    before = digests(tree)
    assert not Plan(tree, "smoke").job(RUN, "evaluate").files
    for part in ("train", "val"):
        (tree / "brought/imagenet" / part / "n01440764").mkdir(parents=True)
        (tree / "brought/imagenet" / part / "n01440764/1.JPEG").write_bytes(b"image")
    assert Plan(tree, "smoke").job(RUN, "evaluate").files.keys() == {"imagenet"}
    assert repeated(tree, before) == {"evaluate"}
