"""What the page says about every method: its README, its results, and what its paper published."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from compressbench.files import read_text
from compressbench.reporting.findings import HEADING, read_section
from compressbench.reporting.frames import each
from compressbench.reporting.groups import FAMILIES
from compressbench.reporting.published import folder_of, read_published
from compressbench.reporting.quotes import strip
from compressbench.reporting.text import DASH, exact

if TYPE_CHECKING:
    from compressbench.config import Declaration

LEAD = re.compile(r"^- \*\*(.+?)\*\*", re.MULTILINE | re.DOTALL)
KEYS = ["method", "model", "setting", "metric"]


class MethodPage(NamedTuple):
    """One method.

    family: in words. results: how many rows of the page's table it has. body: its README without the title, as HTML.
    leads: the first words of its findings, as HTML. published: the paper's numbers, and what they are recomputed to.
    """

    name: str
    title: str
    paper: str
    family: str
    baseline: bool
    results: int
    body: str
    leads: list[str]
    published: list[dict[str, str]]


def method_pages(
    methods_root: Path, declarations: Mapping[str, "Declaration"], results: pd.DataFrame, counts: pd.DataFrame
) -> list[MethodPage]:
    """Methods before baselines, each by its name."""
    printed = _published(methods_root, declarations, counts)
    names = sorted(declarations, key=lambda n: (declarations[n].is_baseline, declarations[n].title.lower()))
    return [_page(name, methods_root, declarations, results, printed) for name in names]


def _page(
    name: str, root: Path, declarations: Mapping[str, "Declaration"], results: pd.DataFrame, printed: pd.DataFrame
) -> MethodPage:
    declared = declarations[name]
    path = folder_of(root, name, declarations) / "README.md"
    text = strip(read_text(path)) if path.exists() else ""
    leads = [document(lead, inline=True) for lead in LEAD.findall(read_section(text, HEADING))]
    return MethodPage(
        name=name,
        title=declared.title,
        paper=declared.paper,
        family=FAMILIES[declared.family],
        baseline=declared.is_baseline,
        results=int((results.method == name).sum()),
        body=document(re.sub(r"\A# .*\n", "", text), below=2),
        leads=leads,
        published=printed[printed.method == name].to_dict("records"),  # type: ignore[arg-type]
    )


def document(markdown: str, below: int = 0, inline: bool = False) -> str:
    """Markdown -> HTML; headings start `below` levels lower. HTML in the text is shown, not obeyed."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    if inline:
        return str(parser.renderInline(markdown))
    tokens = parser.parse(markdown)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1:]) + below)}"
    return str(parser.renderer.render(tokens, parser.options, {}))


def _published(root: Path, declarations: Mapping[str, "Declaration"], counts: pd.DataFrame) -> pd.DataFrame:
    """The papers' numbers, a row each: `recomputed` and `verdict` where that needs no training."""
    printed = read_published(root, declarations)
    found: dict[tuple[str, ...], Any] = {tuple(getattr(r, k) for k in KEYS): r for r in each(counts)}
    rows = [found.get(tuple(getattr(row, k) for k in KEYS)) for row in each(printed)]
    return printed.assign(
        recomputed=[DASH if row is None else exact(row.recomputed) for row in rows],
        verdict=["" if row is None else row.verdict for row in rows],
    )
