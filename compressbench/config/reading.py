"""Reads configuration files; a mistake in them is reported in one sentence that names the file and the key."""

from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from compressbench.config.forms import Budgets, Changes, Scale
from compressbench.errors import UserError
from compressbench.files import read_text

Form = TypeVar("Form", bound=BaseModel)


def parse(form: type[Form], content: Any, where: str) -> Form:
    """Validate `content`; UserError names the file and the first wrong key."""
    try:
        return form.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "(whole file)"
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        given = "" if isinstance(first["input"], dict) else f", got {first['input']!r}"
        raise UserError(f"{where}: key {key}: {first['msg']}{given}{more}; correct it there.") from None


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; UserError names it when it is missing or not YAML."""
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(
            read_text(path)
        )  # the fast one: every job reads them all
        node = loader.get_single_node()
        _refuse_repeated_keys(node)
        return loader.construct_document(node) if node else None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None


def _refuse_repeated_keys(node: yaml.Node | None) -> None:
    """YAML forbids them, and PyYAML would silently take the last value."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(item)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {name!r} occurs twice", problem_mark=key.start_mark)
            seen.add(name)
            _refuse_repeated_keys(value)


def load_scale(root: Path, name: str) -> Scale:
    """config/{name}.yaml, validated."""
    known = sorted(p.stem for p in (root / "config").glob("*.yaml"))
    if name not in known:
        raise UserError(f"unknown scale {name!r}; config/ has: {', '.join(known) or 'nothing'}.")
    path = root / "config" / f"{name}.yaml"
    content, where = read_yaml(path), str(path.relative_to(root))
    if isinstance(content, dict) and "derived_from" in content:
        content = _derived(root, content, where)
    return parse(Scale, content, where)


def _derived(root: Path, content: dict[str, Any], where: str) -> dict[str, Any]:
    """A whole scale from one that names another: its pairs with other budgets, its comparisons, and whatever it says itself.

    What it says of a comparison or a pair takes the place of what the other one says; pairs that are left without a use go.
    """
    if content["derived_from"] == Path(where).stem:
        raise UserError(f"{where}: key derived_from: a scale cannot be derived from itself; name another one.")
    base = load_scale(root, str(content["derived_from"]))
    only = content.pop("only", None)
    pairs = {name: pair for name, pair in base.pairs.items() if only is None or name.split("/")[0] in only}
    if not pairs:
        raise UserError(f"{where}: key only: no pair of {content['derived_from']} has one of the data sets {only}.")
    budgets = parse(Budgets, content.get("budgets", {}), f"{where}, budgets")
    inherited = {name: getattr(base, name) for name in base.model_fields_set - {"report_seeds"}}
    changes = parse(Changes, {key: content[key] for key in Changes.model_fields if key in content}, where)
    kept = {name: tuple(p for p in own if p in pairs) for name, own in base.comparisons.items()}
    comparisons = kept | changes.comparisons
    found = {name: budgets.of(pair) for name, pair in pairs.items()} | changes.pairs
    used = set(chain(*comparisons.values()))
    used |= {teacher for name in used & found.keys() if (teacher := found[name].teacher)}
    return inherited | content | {
        "lineage": [content["derived_from"], *base.lineage],
        "comparisons": comparisons,
        "pairs": {name: pair for name, pair in found.items() if name in used or name in changes.pairs},
    }  # fmt: skip
