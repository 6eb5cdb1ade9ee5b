"""Writing so that a file is either whole or absent, and reading text and JSON so that a damaged file is named.

What is written is made in memory first: whatever makes it (safetensors, matplotlib, pandas), the disk can refuse only here.
"""

import errno
import io
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compressbench.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REMEDIES = {
    **dict.fromkeys(FULL, "make room"),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR), "move away what is in its place"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make the folder writable"),
}


def slug(name: str) -> str:
    """A name as a folder: EDSR x4 -> edsr_x4."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def remedy(error: OSError) -> str:
    """What to do when the disk refuses."""
    return _REMEDIES.get(error.errno or 0, "make room or make the folder writable")


def make_folder(folder: Path) -> None:
    """Create a folder and try to write in it, so that a long job learns at its start that it cannot. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write in the folder {folder}: {error.strerror}; {remedy(error)}.") from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary neighbour of `path`, then rename it. Raises UserError when the disk refuses."""
    make_folder(path.parent)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        write(Path(temporary))
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; {remedy(error)}.") from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Bytes, written atomically."""
    write_atomically(path, lambda p: p.write_bytes(content))


def write_text(path: Path, text: str) -> None:
    """UTF-8 text, written atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Indented JSON with a final newline, written atomically."""
    write_text(path, json.dumps(content, indent=2, allow_nan=True) + "\n")


def in_memory(save: Callable[[io.BytesIO], object]) -> bytes:
    """What `save` writes into an open file."""
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


def read_text(path: Path) -> str:
    """A file of UTF-8 text; UserError names it where it is missing, unreadable or in another encoding."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; make it a readable file.") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8."
        ) from error


def read_json(path: Path) -> Any:
    """The content of a JSON file; UserError names the file when it is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run the stage that writes it first.") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; make it a readable file.") from error
    except ValueError as error:  # neither JSON nor text
        raise UserError(f"{path} is damaged ({error}); delete it and run its stage again.") from error
