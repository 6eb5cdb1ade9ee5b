"""Gathers the READMEs' sections "What reproducing it taught us"."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from compressbench.files import read_text, write_text
from compressbench.reporting.published import folder_of
from compressbench.reporting.quotes import strip

if TYPE_CHECKING:
    from compressbench.config import Declaration

HEADING = "What reproducing it taught us"
STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:50em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}td,th{border:1px solid #bbb;padding:.2em .6em}"
)


def write_findings(text: str, out: Path) -> list[Path]:
    """findings.md and findings.html in the folder `out`."""
    pages = {out / "findings.md": text, out / "findings.html": to_html(text)}
    for path, content in pages.items():
        write_text(path, content)
    return list(pages)


def findings(methods_root: Path, declarations: Mapping[str, "Declaration"]) -> str:
    """The findings page in Markdown: one section per method, methods before baselines."""
    parts = [
        "# What reproducing the methods taught us",
        "Differences between paper, code and measurement, from the README of each method.",
    ]
    for name in sorted(declarations, key=lambda n: (declarations[n].is_baseline, n)):
        path = folder_of(methods_root, name, declarations) / "README.md"
        if path.exists() and (section := read_section(read_text(path), HEADING)):
            parts.append(f"## {declarations[name].title}\n\n*{declarations[name].paper}*\n\n{strip(section)}")
    if len(parts) == 2:
        parts.append("No method has written down a finding yet.")
    return "\n\n".join(parts) + "\n"


def read_section(text: str, heading: str) -> str:
    """The body of a level-2 section, up to the next heading of level 1 or 2."""
    match = re.search(rf"^## {re.escape(heading)}[ \t]*\n(.*?)(?=^#{{1,2}} |\Z)", text, re.MULTILINE | re.DOTALL)
    return match.group(1).strip() if match else ""


def to_html(markdown: str, title: str = "Findings") -> str:
    """A self-contained HTML page."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en">{head}\n{body}</html>\n'
