"""Text is UTF-8 in files and between processes, whatever the locale."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, run_module

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
SOURCES = [p for d in ("compressbench", "methods", "tests", "workflow") for p in (ROOT / d).rglob("*.py")]


def _mode(call: ast.Call, position: int, default: str) -> str:
    given = [k.value for k in call.keywords if k.arg == "mode"] or call.args[position : position + 1]
    return str(given[0].value) if given and isinstance(given[0], ast.Constant) else default


def _leaves_the_encoding_to_the_locale(call: ast.Call) -> bool:
    named = {k.arg for k in call.keywords}
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if "encoding" in named:
        return False
    if name in ("read_text", "write_text"):
        return len(call.args) < (1 if name == "read_text" else 2)
    if name in ("run", "Popen", "check_output"):
        return bool(named & {"text", "universal_newlines"})
    if name in ("NamedTemporaryFile", "TemporaryFile"):
        return "b" not in _mode(call, 0, "w+b")
    if name in ("open", "fdopen"):
        owner = getattr(getattr(call.func, "value", None), "id", "")
        if name == "open" and owner == "os":
            return False  # a descriptor
        of_bytes = owner in ("Image", "gzip")
        return "b" not in _mode(
            call, 0 if owner not in ("Image", "gzip", "os", "io", "") else 1, "rb" if of_bytes else "r"
        )
    return name in ("loadtxt", "genfromtxt", "savetxt", "FileHandler", "TextIOWrapper")


def unspecified(source: str) -> list[int]:
    """The lines that read or write text in the locale's encoding; ruff's PLW1514 sees those on variables of a known type."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return sorted(call.lineno for call in calls if _leaves_the_encoding_to_the_locale(call))


def test_every_file_and_pipe_of_text_names_its_encoding() -> None:
    found = {
        str(p.relative_to(ROOT)): unspecified(p.read_text(encoding="utf-8")) for p in [*SOURCES, ROOT / "setup.py"]
    }
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("source", "is_found"),
    [
        ("(folder / 'a').read_text()", True),
        ("path.write_text('a')", True),
        ("open('a')", True),
        ("(folder / 'a').open('w', newline='')", True),
        ("subprocess.run(command, text=True)", True),
        ("path.read_text(encoding='utf-8')", False),
        ("open('a', 'rb')", False),
        ("path.open('wb')", False),
        ("Image.open(path)", False),
        ("subprocess.run(command)", False),
    ],
)
def test_a_missing_encoding_is_found(source: str, is_found: bool) -> None:
    assert bool(unspecified(source)) is is_found


def test_the_linter_reports_a_missing_encoding_and_no_other_preview_rule() -> None:
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--output-format",
        "concise",
        "--stdin-filename",
        "compressbench/a.py",
        "-",
    ]
    source = '"""A file."""\n\nwith open("a") as file:\n    print( file.read() )\n'  # E201, E202 are in preview
    done = subprocess.run(command, input=source, capture_output=True, encoding="utf-8", cwd=ROOT)
    assert "unspecified-encoding" in done.stdout and "Found 1 error" in done.stdout, done.stdout + done.stderr


def test_the_library_reads_its_configuration_without_an_encoding_warning() -> None:
    command = [sys.executable, "-X", "warn_default_encoding", "-W", "error::EncodingWarning", "-m", "compressbench"]
    done = subprocess.run(
        [*command, "validate", "smoke"], capture_output=True, encoding="utf-8", cwd=ROOT, env=os.environ | ASCII
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "all valid" in done.stdout


@pytest.mark.pipeline
def test_letters_that_the_terminal_cannot_show_are_no_error(project: Path) -> None:
    narrow = {"PYTHONIOENCODING": "gbk", "LC_ALL": "C.UTF-8"}
    process = run_module(project, "report", "smoke", "größe", "--methods", "dense", env=narrow)
    assert process.returncode == 0, process.stderr[-2000:]
    assert r"gr\xf6\xdfe: " in process.stdout and (project / "größe").is_dir()


@pytest.mark.pipeline
def test_configuration_and_report_are_the_same_in_an_ascii_locale(project: Path) -> None:
    file = project / "methods/optg/config.yaml"
    content = yaml.safe_load(file.read_text(encoding="utf-8")) | {"title": "OptG é ± · 网络"}
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    written = {}
    for name, locale in {"usual": {}, "ascii": ASCII}.items():
        process = run_module(project, "report", "smoke", name, "--methods", "optg,dense", env=locale)
        assert process.returncode == 0, process.stderr[-2000:]
        files = sorted(p for p in (project / name).rglob("*") if p.suffix in (".md", ".csv", ".html"))
        written[name] = {str(p.relative_to(project / name)): p.read_bytes() for p in files}
    assert written["usual"] == written["ascii"]
    assert "OptG é ± · 网络".encode() in b"".join(written["ascii"].values())


@pytest.mark.pipeline
def test_the_plan_is_read_in_an_ascii_locale(project: Path) -> None:
    process = run_module(
        project,
        "-n",
        "--quiet",
        "--cores",
        "1",
        "--config",
        "scale=smoke",
        "methods=[optg]",
        module="snakemake",
        env=ASCII,
    )
    assert process.returncode == 0, process.stderr[-2000:]
