"""Reads configuration files; a mistake in them is reported in one sentence that names the file and the key."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from compressbench.config.forms import Scale
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
    return parse(Scale, read_yaml(path), str(path.relative_to(root)))
