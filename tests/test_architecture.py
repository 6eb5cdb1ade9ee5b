"""docs/architecture.md and the import contracts say the same, and every room of the library is in both."""

import re
import tomllib

from tests.conftest import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
FLOORS = next(c for c in CONTRACTS if c["type"] == "layers")["layers"]


def floor_of() -> dict[str, int]:
    """Room -> its floor, counted from the top."""
    return {
        room.strip().removeprefix("compressbench."): floor
        for floor, row in enumerate(FLOORS)
        for room in row.split("|")
    }


def test_every_room_has_a_floor() -> None:
    rooms = {path.stem for path in (ROOT / "compressbench").iterdir() if path.is_dir() or path.suffix == ".py"}
    assert rooms - {"__init__", "__main__", "__pycache__"} == floor_of().keys()


def test_the_page_lists_the_rooms_from_the_top_down() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE)
    small = re.findall(r"`(\w+)`", PAGE[PAGE.index("small modules") : PAGE.index("## Rules")])
    floors = floor_of()
    assert {*listed, *small} == floors.keys() and not set(listed) & set(small)
    order = [floors[room] for room in listed]
    assert order == sorted(order) and max(order) < min(floors[room] for room in small)
