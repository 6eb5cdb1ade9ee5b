"""The pin of data/: DVC's data.dvc, checked file by file.

DVC pins a folder by one hash, which says *that* something differs but not *what*. The hashes of the single files are
therefore kept in the `meta` section of data.dvc, which DVC leaves to its users; the folder's hash is derived from them
exactly as DVC does, so the two cannot disagree unnoticed.
"""

import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from compressbench.data.datasets import fetchable
from compressbench.errors import UserError
from compressbench.files import write_text

log = logging.getLogger(__name__)

PIN = "data.dvc"


def check(root: Path, names: Collection[str] | None = None) -> dict[str, str]:
    """Compares data/ with the pin, brings it into DVC's cache, and returns the pinned hash of each data set.

    With `names` only these data sets count; DVC, which knows data/ as a whole, then gets it if the others are there as well.
    """
    found = differences(root)
    if problems := {f: problem for f, problem in found.items() if names is None or f.split("/")[0] in names}:
        listed = [f"data/{name} {problem}" for name, problem in problems.items()]
        shown = ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
        raise UserError(f"data/ is not what {root / PIN} pins: {shown}; {_remedy(problems)}.")
    if not found and json.loads(_dvc(root, "status", "--json", PIN)):
        _dvc(root, "commit", "--force", PIN)  # equal content: this fills the cache and leaves the pin as it is
    return {name: pinned for name, pinned in pinned_hashes(root).items() if names is None or name in names}


def pinned_hashes(root: Path) -> dict[str, str]:
    """The pinned hash of each data set, by the name of its folder below data/."""
    content_hash(root)  # or the pin contradicts itself
    pinned = pinned_files(root)
    return {name: folder_hash(_below(pinned, name)) for name in sorted({n.split("/")[0] for n in pinned})}


def differences(root: Path, name: str = "") -> dict[str, str]:
    """What of data/, or of one data set, is not as pinned: `is missing`, `is not pinned` or `differs`, by file name."""
    pinned, found = pinned_files(root), hash_files(root / "data")
    return {
        file: "is missing" if file not in found else "is not pinned" if file not in pinned else "differs"
        for file in sorted(pinned.keys() | found.keys())
        if pinned.get(file) != found.get(file) and file.startswith(f"{name}/" if name else "")
    }


def _remedy(problems: dict[str, str]) -> str:
    """What to do about `differences`. Only what can be fetched again may be deleted."""
    added = [file for file, problem in problems.items() if problem == "is not pinned"]
    changed = sorted({file.split("/")[0] for file in problems.keys() - set(added)})
    fetched = [f"data/{name}" for name in changed if name in fetchable()]
    own = [f"data/{name}" for name in changed if name not in fetchable()]
    steps = ["move what is not pinned into data/external/"] if added else []
    steps += [f"delete {' and '.join(fetched)} and run `compressbench data`, which fetches it again"] if fetched else []
    steps += [f"bring back your own copy of {' and '.join(own)}, which the suite cannot fetch"] if own else []
    return "; ".join([*steps, "if the change is meant, pin it with `compressbench data --repin`"])


def record_name(dataset: str, pinned: str) -> str:
    """The file by which the data stage says that a data set is there as pinned: another pin, another file."""
    return f"{dataset}-{pinned.removesuffix('.dir')}.json"


def content_hash(root: Path) -> str:
    """The pinned hash of the whole of data/."""
    pin = _read_pin(root)
    if pin["hash"] != folder_hash(pin["files"]):
        raise UserError(f"{root / PIN}: outs and meta.files disagree; restore it from version control.")
    return str(pin["hash"])


def repin(root: Path) -> str:
    """For maintainers, after a deliberate change of the data: pins data/ as it is now and returns its hash."""
    _dvc(root, "add", "data")
    path = root / PIN
    content = yaml.safe_load(path.read_text(encoding="utf-8")) | {"meta": {"files": hash_files(root / "data")}}
    write_text(path, yaml.safe_dump(content, sort_keys=False))
    return content_hash(root)


def restore(root: Path) -> bool:
    """Tries a configured DVC remote, else the local cache; says whether data/ now comes from one of them.

    A failure is not the end: the public sources come next, and the pin decides whether what they gave is right.
    """
    try:
        drop_damaged(root)
        if _dvc(root, "remote", "list").strip():
            _dvc(root, "pull", PIN)
        elif _cached(root, content_hash(root)).is_file():
            _dvc(root, "checkout", PIN)
        else:
            return False
    except UserError as error:
        log.warning("%s", error)
        return False
    return True


def drop_damaged(root: Path) -> None:
    """Removes from DVC's cache what is not the content that its name promises: DVC would restore it again and again."""
    for md5 in {content_hash(root), *pinned_files(root).values()}:
        path = _cached(root, md5)
        if path.is_file() and _md5(path) != md5.removesuffix(".dir"):
            log.warning("%s is damaged and is removed from DVC's cache", path)
            path.unlink()


def _cached(root: Path, md5: str) -> Path:
    return root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]


def pinned_files(root: Path) -> dict[str, str]:
    """The pinned MD5 by file name relative to data/."""
    return dict(_read_pin(root)["files"])


def hash_files(folder: Path) -> dict[str, str]:
    """The MD5 by relative name of every file that .dvcignore does not leave out."""
    files = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    kept = (name for name in files if name.parts[0] != "external" and not any(map(_left_by_a_system, name.parts)))
    return {name.as_posix(): _md5(folder / name) for name in kept}


def _left_by_a_system(part: str) -> bool:
    return part.startswith(".") or part in ("Thumbs.db", "thumbs.db", "Desktop.ini", "desktop.ini")


def folder_hash(files: dict[str, str]) -> str:
    """DVC's hash of a folder: the MD5 of the sorted list of its files as JSON, with the suffix .dir."""
    listing = [{"md5": files[name], "relpath": name} for name in sorted(files)]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _below(files: dict[str, str], folder: str) -> dict[str, str]:
    return {name.removeprefix(f"{folder}/"): md5 for name, md5 in files.items() if name.startswith(f"{folder}/")}


def _md5(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); make it readable.") from error


def _read_pin(root: Path) -> dict[str, Any]:
    """{"hash": of the folder, "files": {name: MD5}}."""
    path = root / PIN
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {"hash": str(content["outs"][0]["md5"]), "files": dict(content["meta"]["files"])}
    except FileNotFoundError:
        raise UserError(f"{path} is missing; restore it from version control.") from None
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error!r}); restore it from version control.") from error


def _dvc(root: Path, *arguments: str) -> str:
    """Runs the installed DVC below `root` and returns what it prints."""
    command = [sys.executable, "-m", "dvc", *arguments]
    environment = os.environ | {"DVC_NO_ANALYTICS": "1", "PYTHONIOENCODING": "utf-8", "PYTHONUTF8": "1"}
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, encoding="utf-8", errors="backslashreplace"
    )
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise UserError(f"`dvc {' '.join(arguments)}` failed in {root}: {lines[-1] if lines else 'no message'}")
    return done.stdout
