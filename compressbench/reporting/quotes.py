"""Numbers that prose quotes from the tables of the report.

A number in a README or a page of docs/ carries an invisible reference, an HTML comment directly behind it:
`79.3 ± 4.5<!--p98--> %`. `requote` updates all of them from the tables, at the precision of the tables.

A reference is a cell, or arithmetic over cells with blanks around the operators and `min`, `max`, `mean` and `abs`:

- `[[MODEL/]METHOD/]SETTING[#SEED][:COLUMN]`: a column of the comparison (default: quality), time-to-quality or records table.
  The method is that of the README's folder, and the model may be left out where only one has the method and setting.
- `TABLE/KEY/.../KEY:COLUMN`: any other table, with its keys in the order of `KEYS`, blanks in them written as `_`.
- `*` in a name matches anything: the cell is then a series of numbers, aligned by what the stars match.

`<!--assert A < B-->` is a claim that must hold. `<!--table NAME-->` precedes a table whose rows are those of NAME.md
(`kernel_sums`: made here). A mark (`MARKS`) says where the numbers before it come from instead: all of its sentence, back to
the comment before it.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from compressbench.errors import UserError
from compressbench.reporting.kernels import break_even

KEYS = {
    "latency": ["model", "method", "setting", "runtime", "threads"],
    "sessions": ["model", "method", "setting", "session"],
    "published_counts": ["method", "model", "setting", "metric"],
    "deployments": ["methods", "network_slug", "setting_slug", "threads", "arithmetic"],
    "kernel_layers": ["network", "layer", "kernel", "threads", "form", "n", "sparsity"],
    "kernel_networks": ["network", "threads", "form", "runtime", "n", "sparsity"],
    "kernel_scaling": ["network", "kernel", "n", "sparsity", "rows", "share", "threads"],
    "kernel_sequences": ["network", "threads", "form", "n", "sparsity"],
    "break_even": ["network", "kernel", "n"],  # the sparsity from which the kernel is faster than dense
    "best_dense": ["network", "layer", "kernel", "threads"],  # the fastest dense form of every layer
    "kernel_int8": ["network", "layer", "form", "n", "sparsity"],
    "kernel_binary": ["network", "threads", "form", "runtime"],
    "kernel_batches": ["network", "batch", "form", "runtime"],
    "kernel_threads": ["network", "threads"],
    "kernel_sums": ["network", "kernel", "threads", "form", "n", "sparsity"],
}
MARKS = {
    "given": "fixed by a setting, no result",
    "paper": "from the paper, its code or its specification, or arithmetic on them",
    "test": "asserted by a test",
    "by hand": "measured once in a setting that the sentence describes; no table has it",
}
COMMENT = re.compile(r"<!--\s*(?P<content>.*?)\s*-->", re.DOTALL)
NUMBER = r"[+−-]?\d[\d,]*(?:\.\d+)?"
QUOTE = re.compile(
    rf"(?P<number>{NUMBER})(?: ± (?P<half>{NUMBER}))?(?P<comment><!--\s*(?P<reference>(?!assert ).*?)\s*-->)"
)
INTERVAL = rf"(?: ± {NUMBER})?"
TABLE = re.compile(r"(?P<mark><!--table (?P<name>\w+)-->\n)(?:\|.*\n)*")
UNIT_NAME = r"(?:%|points?\b|dB\b|[kM]?B\b|[mµ]?s\b|seconds?\b|times\b)"
UNIT = rf" ?(?:{UNIT_NAME}|(?:and|to|or|against|instead of|,) [+−]?[\d,.]+ ?{UNIT_NAME})"
DECIMAL = r"\d[\d,]*\.\d+"
WITH_UNIT = re.compile(rf"(?<![\w.,^·])(\d[\d,]*(?:\.\d+)?)(?={INTERVAL},?{UNIT}){INTERVAL}")
MEASURED = re.compile(rf"(?<![\w.,^·])({DECIMAL}(?![\w^])|\d+(?:,\d{{3}})*(?={INTERVAL}{UNIT})){INTERVAL}")
FINDINGS = re.compile(r"^## What reproducing it taught us$.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
NO_PROSE = re.compile(
    r"```.*?```|^ {4}[^\n]*$|`[^`\n]*`|\]\([^)]*\)|arXiv [\d.]+|^#[^\n]*$|^<!--table [^\n]*\n(?:\|[^\n]*\n)*",
    re.DOTALL | re.MULTILINE,
)
PERCENT = re.compile(r"(?:(?:,| and| to| or)? ?[\d.]+)* ?%")
SENTENCE_END = re.compile(r"[.;:!?][*)]*\s")
FIELDS = ("value", "low", "high")
OPERATORS = {"+", "-", "*", "/", "<", "<=", ">", ">=", "==", "(", ")"}
FUNCTIONS = {"min": np.min, "max": np.max, "mean": np.mean, "abs": np.abs}
SYNTAX = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Call, ast.Name, ast.Constant)
SYNTAX_DETAILS = (ast.operator, ast.unaryop, ast.cmpop, ast.expr_context)


class Unknown(Exception):
    """A reference to a cell that no table has."""


class Quote(NamedTuple):
    """A number quoted in a text: its line, its value there, and its value in the tables."""

    line: int
    written: str
    right: str


class Cells:
    """All numbers of the tables in a folder, by path: `MODEL/METHOD/SETTING:COLUMN` or `TABLE/KEY/...:COLUMN`."""

    def __init__(self, tables: Path) -> None:
        self.folder = tables
        self.has_seeds = (tables / "seeds.csv").exists()
        overview = pd.read_csv(tables / "overview.csv")
        models = dict(zip(overview.dataset + "_" + overview.model, overview.model, strict=True))
        parts = [_by_setting(table, model) for table, model in _per_group(tables, "comparison", models)]
        parts += [_by_setting(table, model) for table, model in _per_group(tables, "time_to_quality", models)]
        parts.append(_records(tables / "records.csv"))
        for kind in ("latency", "sessions"):
            parts += [_by_keys(kind, table.assign(model=model)) for table, model in _per_group(tables, kind, models)]
        parts += [_by_keys(name, _read(path)) for name in KEYS if (path := tables / f"{name}.csv").exists()]
        if (tables / "kernel_sums.csv").exists():
            parts += [_break_even(tables / "kernel_sums.csv"), _best_dense(tables / "kernel_layers.csv")]
        if self.has_seeds:
            parts.append(_single_seeds(tables / "seeds.csv"))
        table = pd.concat(parts)
        self.table = table[~table.index.duplicated()].sort_index()  # a record has the name of a column: the column
        self.by_column: dict[str, list[str]] = {}
        for path in self.table.index:
            self.by_column.setdefault(path.partition(":")[2], []).append(path)

    def find(self, reference: str, own: str) -> pd.DataFrame:
        """Columns value, low and high of the cells that a reference names, by what its stars match. Raises Unknown."""
        path, _, column = reference.partition(":")
        parts = path.split("/")
        if len(parts) == 1:
            parts = [own, *parts]
        exact = re.escape("/".join(parts)).replace(r"\*", "([^/:#]*)")
        anywhere = r"[^/]+/" if len(parts) == 2 and parts[0] not in KEYS else ""
        candidates = self.by_column.get(column or "quality", [])
        matches = {p: m for p in candidates if (m := re.fullmatch(f"{anywhere}{exact}:[^:]*", p))}
        if not matches:
            raise Unknown(f"no table has {reference}")
        if anywhere and len({p.split("/")[0] for p in matches}) > 1:
            raise Unknown(f"{reference} is in the tables of several models: write MODEL/METHOD/SETTING")
        found = self.table.loc[list(matches)]
        return found.set_axis(["/".join(m.groups()) for m in matches.values()])


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def _per_group(tables: Path, kind: str, models: dict[str, str]) -> Iterator[tuple[pd.DataFrame, str]]:
    for slug, model in models.items():
        if (path := tables / f"{kind}_{slug}.csv").exists():
            yield _read(path), model


def _by_setting(table: pd.DataFrame, model: str) -> pd.DataFrame:
    return _long(table, model + "/" + table.method + "/" + table.setting)


def _by_keys(name: str, table: pd.DataFrame) -> pd.DataFrame:
    return _long(table, name + "/" + table[KEYS[name]].agg("/".join, axis=1).str.replace(" ", "_"))


def _long(table: pd.DataFrame, paths: pd.Series) -> pd.DataFrame:
    """One row for every number of a wide table: value, and low and high where there are columns of these names."""
    numbers = table.apply(pd.to_numeric, errors="coerce").set_axis(paths)
    rows = []
    for column in numbers:
        names = zip(FIELDS, (column, f"{column}_low", f"{column}_high"), strict=True)
        own = pd.DataFrame({field: numbers.get(name, np.nan) for field, name in names}, index=numbers.index)
        rows.append(own.set_axis(own.index + f":{column}"))
    return pd.concat(rows).dropna(subset="value")


def _records(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path)
    names = table.model + "/" + table.method + "/" + table.setting + ":" + table.name
    return table[["mean", "low", "high"]].set_axis(FIELDS, axis=1).set_axis(names)


def _break_even(path: Path) -> pd.DataFrame:
    sums = pd.read_csv(path).query("form == 'sparse' and threads == 1")
    rows = [
        [*key, break_even(list(zip(own["sparsity"], own["speedup"], strict=True)))]
        for key, own in sums.groupby(KEYS["break_even"])
    ]
    return _by_keys("break_even", pd.DataFrame(rows, columns=[*KEYS["break_even"], "sparsity"]).astype(str))


def _best_dense(path: Path) -> pd.DataFrame:
    dense = pd.read_csv(path).query("form not in ['sparse', 'binary', 'peak']")
    best = dense.groupby(KEYS["best_dense"]).min_ms.min()
    return _by_keys("best_dense", best.reset_index().astype(str))


def _single_seeds(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, keep_default_na=False, dtype={"point": str, "seed": str})
    points = ("@" + table.point).where(table.point != "", "")
    names = table["name"].str.replace(r"^quality\.(?:top1|psnr|agreement)$", "quality", regex=True)
    # a record, whichever stage made it
    names = names.str.replace(r"^(?:synthesize|compress|finetune)\.", "", regex=True)
    paths = table.model + "/" + table.method + "/" + table.setting + points + "#" + table.seed + ":" + names
    values = pd.to_numeric(table.value, errors="coerce")
    return pd.DataFrame({"value": values, "low": np.nan, "high": np.nan}).set_axis(paths)


def evaluate(expression: str, cells: Cells, own: str) -> tuple[float, float]:
    """A reference's value and the half width of its interval (NaN without one); a claim's value is 0 or 1. Raises Unknown."""
    found: list[pd.DataFrame] = []
    words: list[str] = []
    for token in re.findall(r"[()]|[^\s()]+", expression):
        if token in OPERATORS or token in FUNCTIONS or re.fullmatch(r"[\d.]+(e-?\d+)?", token):
            words.append(token)
        else:
            words.append(f"{'-' if token.startswith('-') else ''}cell{len(found)}")
            found.append(cells.find(token.removeprefix("-"), own))
    try:
        tree = ast.parse(" ".join(words), mode="eval")
    except SyntaxError:
        raise Unknown(f"{expression} is no reference") from None
    if not all(isinstance(node, SYNTAX + SYNTAX_DETAILS) for node in ast.walk(tree)):
        raise Unknown(f"{expression} is no reference")
    code = compile(tree, expression, "eval")

    def of(field: str) -> float:
        values = {f"cell{i}": f[field].item() if list(f.index) == [""] else f[field] for i, f in enumerate(found)}
        result = eval(code, {"__builtins__": {}}, {**FUNCTIONS, **values})
        if isinstance(result, pd.Series):
            raise Unknown(f"{expression} is several numbers; take their min, max or mean")
        return float(result)

    return of("value"), abs(of("high") - of("low")) / 2


def write_like(written: str, value: float) -> str:
    """`value` with the decimals, the sign and the thousands separators of a number as it was written."""
    decimals = len(written.partition(".")[2])
    text = f"{abs(value):{',' if ',' in written else ''}.{decimals}f}"
    negative = value < 0 and float(text.replace(",", "")) != 0
    return ("−" if negative else "+" if written.startswith("+") else "") + text


def quotes(text: str, cells: Cells, own: str) -> list[Quote]:
    """Every quoted number of a README of the method `own`. A reference to a single seed waits for the table of seeds."""
    result = []
    for match in QUOTE.finditer(text):
        if match["reference"] in MARKS or ("#" in match["reference"] and not cells.has_seeds):
            continue
        result.append(_quote(text, match, cells, own))
    return result


def _quote(text: str, match: re.Match[str], cells: Cells, own: str) -> Quote:
    value, half = evaluate(match["reference"], cells, own)
    right = write_like(match["number"], value)
    if match["half"]:
        right += f" ± {write_like(match['half'], half)}"
    return Quote(line_of(text, match.start()), text[match.start() : match.start("comment")], right)


def claims(text: str) -> Iterator[tuple[int, str]]:
    """(line, expression) of every `<!--assert ...-->`."""
    for match in COMMENT.finditer(text):
        if match["content"].startswith("assert "):
            yield line_of(text, match.start()), match["content"].removeprefix("assert ")


def line_of(text: str, position: int) -> int:
    """The number of the line, from 1."""
    return text.count("\n", 0, position) + 1


def documents(root: Path) -> dict[Path, str]:
    """Every text of the project that quotes numbers, with the method that it is about (none: an empty text)."""
    general = [root / "README.md", *sorted(root.glob("docs/*.md"))]
    return dict.fromkeys(general, "") | {path: path.parent.name for path in sorted(root.glob("methods/**/README.md"))}


def requote(root: Path, tables: Path) -> tuple[list[str], list[str]]:
    """Write all quoted numbers and tables in the documents below `root` anew.

    Returns:
        A line for every number that changed, and one for every claim that does not hold.

    Raises:
        UserError: a reference is to no cell; no document was changed.
    """
    cells = Cells(tables)
    changed: list[str] = []
    failing: list[str] = []
    texts: dict[Path, str] = {}
    for path, own in documents(root).items():
        text, name = path.read_text(encoding="utf-8"), path.relative_to(root)
        try:
            changed += [
                f"{name}:{q.line}: {q.written} → {q.right}" for q in quotes(text, cells, own) if q.written != q.right
            ]
            failing += [f"{name}:{line}: {claim}" for line, claim in claims(text) if not holds(claim, cells, own)]
            texts[path] = rewrite(text, cells, own)
        except Unknown as error:
            raise UserError(f"{name}: {error}; correct the reference.") from None
    for path, text in texts.items():
        if text != path.read_text(encoding="utf-8"):
            path.write_text(text, encoding="utf-8")
    return changed, failing


def rewrite(text: str, cells: Cells, own: str) -> str:
    """The text with the right numbers and tables. Raises Unknown."""

    def right(match: re.Match[str]) -> str:
        if match["reference"] in MARKS or ("#" in match["reference"] and not cells.has_seeds):
            return match[0]
        return _quote(text, match, cells, own).right + match["comment"]

    def table(match: re.Match[str]) -> str:
        rows = _kernel_sums(cells) if match["name"] == "kernel_sums" else _rows(cells.folder / f"{match['name']}.md")
        return match["mark"] + "".join(f"{row}\n" for row in rows)

    return TABLE.sub(table, QUOTE.sub(right, text))


def _rows(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")]


def _kernel_sums(cells: Cells) -> list[str]:
    rows = ["| over the best dense form of every layer | blocks | 50 % | 75 % | 90 % |", "|---|---|---:|---:|---:|"]
    for network, kernel in (("ResNet-50", 1), ("ResNet-50", 3), ("MobileNet-V2", 1)):
        for n, blocks in ((1, "unstructured"), (4, "1x4"), (16, "1x16")):
            paths = [f"kernel_sums/{network}/{kernel}/1/sparse/{n}/{sparsity}:speedup" for sparsity in (0.5, 0.75, 0.9)]
            ratios = [f"{evaluate(path, cells, '')[0]:.2f}" for path in paths]
            rows.append(f"| {network}, {kernel}x{kernel} | {blocks} | {' | '.join(ratios)} |")
    return rows


def holds(claim: str, cells: Cells, own: str) -> bool:
    """Whether a claim is true; one about single seeds is not asked without the table of seeds. Raises Unknown."""
    return ("#" in claim and not cells.has_seeds) or evaluate(claim, cells, own)[0] == 1


def strip(text: str) -> str:
    """The text without comments, as a reader sees it."""
    return COMMENT.sub("", re.sub(r"^<!--[^\n]*-->\n", "", text, flags=re.MULTILINE))


def unreferenced(text: str, levels: set[str]) -> list[tuple[int, str]]:
    """(line, number) of all that looks measured and has neither a reference nor a mark.

    In the findings that is every decimal and every number with a unit, elsewhere every number with a unit. Code, headings,
    generated tables and percentages that are `levels` are left out.
    """
    blank = re.sub(NO_PROSE, _blank, text)
    findings = [m.span() for m in FINDINGS.finditer(text)] or [(0, len(text))] * text.startswith("# compressbench\n")
    found = []
    for item in re.finditer(r"(?:(?!\n\s*\n|\n\s*[-|] ).)+", blank, re.DOTALL):
        comments = [c for c in COMMENT.finditer(item[0]) if not c["content"].startswith("assert ")]
        pattern = MEASURED if any(a <= item.start() < b for a, b in findings) else WITH_UNIT
        for number in pattern.finditer(COMMENT.sub(_blank, item[0])):
            level = number[0] in levels and PERCENT.match(item[0], number.end())
            if not level and not _accounted(number, item[0], comments):
                found.append((item.start() + number.start(), number[0]))
    return [(line_of(text, position), number) for position, number in found]


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])


def _accounted(number: re.Match[str], item: str, comments: list[re.Match[str]]) -> bool:
    """Whether the comment behind a number is its reference, or a mark in the same sentence."""
    following = next((c for c in comments if c.start() >= number.end()), None)
    if following is None:
        return False
    between = item[number.end() : following.start()]
    return not between or (following["content"] in MARKS and not SENTENCE_END.search(between))
