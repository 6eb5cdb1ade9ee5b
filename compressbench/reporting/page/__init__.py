"""index.html: one page to explore a report, made from the tables in its folder and from the methods' own files.

Everything that it shows stands in the page: it needs neither a server nor a network. DataTables draws the table, Vega-Lite the
figures. Equal tables give equal pages.
"""

import json
import os
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressbench.files import read_text, write_text
from compressbench.reporting.findings import read_section
from compressbench.reporting.outputs import PAGE
from compressbench.reporting.page.columns import AXES, COLUMNS
from compressbench.reporting.page.documents import document, method_pages
from compressbench.reporting.page.rows import read_deployments, read_results, read_table
from compressbench.reporting.quotes import strip
from compressbench.reporting.text import exact, number

if TYPE_CHECKING:
    from compressbench.config import Declaration


def write_page(folder: Path, methods_root: Path, declarations: Mapping[str, "Declaration"], found: str = "") -> Path:
    """Write `folder`/index.html from `folder`/tables, and from verdict.md where there is one.

    Args:
        methods_root: the folder methods/, for README.md and published.csv.
        declarations: of all methods; those without a result are listed, too.
        found: what they show, in Markdown; its links are relative to `folder`.

    Raises:
        UserError: there are no tables.
    """
    write_text(folder / PAGE, render(folder, methods_root, declarations, found))
    return folder / PAGE


def render(folder: Path, methods_root: Path, declarations: Mapping[str, "Declaration"], found: str = "") -> str:
    """The page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    tables = folder / "tables"
    results = read_results(tables, declarations)
    counts, missing = read_table(tables / "published_counts.csv"), read_table(tables / "missing.csv")
    verdict = folder / "verdict.md"
    environment = Environment(
        loader=PackageLoader(__name__, "assets"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("page.html.j2").render(
        found=document(found),
        style=_datatables("dt_bundle.css") + _asset("page.css"),
        script=_asset("page.js"),
        libraries=embedded({"datatables": _datatables("dt_bundle.js"), "vega": _vega()}),
        data=embedded(payload(results)),
        axes=AXES,
        columns=COLUMNS,
        results=results,
        methods=method_pages(methods_root, declarations, results, counts),
        deployments=read_deployments(tables),
        counts=counts,
        missing=missing,
        titles={name: declared.title for name, declared in declarations.items()},
        exact=exact,
        number=number,
        verdict=document(read_text(verdict), below=2) if verdict.exists() else "",
    )


def what_was_found(root: Path, folder: Path) -> str:
    """The section of the project's README that says so, in Markdown; its links lead there from `folder`. Empty without one."""
    if not (root / "README.md").exists():
        return ""
    back = os.path.relpath(root, folder).replace(os.sep, "/")
    return re.sub(r"\]\((?!\w+:|#)", f"]({back}/", strip(read_section(read_text(root / "README.md"), "What was found")))


def payload(results: Any) -> dict[str, Any]:
    """What the page's script reads: the results as the tables have them, and every cell of its table in words."""
    fields = list(results.columns)
    values = results.astype(object).where(results.notna(), None).to_numpy().tolist()
    texts = [[column.text(row) for column in COLUMNS] for row in results.itertuples()]
    return {
        "fields": fields,
        "values": values,
        "columns": [column.key for column in COLUMNS],
        "texts": texts,
        "axes": {axis.key: axis._asdict() for axis in AXES},
    }


def embedded(content: Any) -> str:
    """JSON that can stand in a <script>: no part of it ends the element or begins a comment."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _asset(name: str) -> str:
    return (files(__name__) / "assets" / name).read_text(encoding="utf-8")


def _datatables(name: str) -> str:
    """DataTables, as itables ships it: a JavaScript module, or its styles."""
    return (files("itables") / "html" / name).read_text(encoding="utf-8")


def _vega() -> str:
    """Vega, Vega-Lite and vega-embed: a JavaScript module that makes `vegaEmbed` global."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
