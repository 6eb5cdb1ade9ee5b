"""Latency as a sum over blocks: keys, tables, files."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from compressbench.config import parse
from compressbench.errors import UserError
from compressbench.models.subnets import Subnet, block_of
from compressbench.supernet.config import SupernetConfig
from compressbench.supernet.latency_table import LatencyTable, keys_of, measured_table
from tests.contexts.supernet import SMALL, layout, space


def test_a_table_is_the_sum_over_the_blocks_and_names_a_missing_entry() -> None:
    own = layout()
    keys = keys_of(own, (20, 24, 28), torch.linspace(0.5, 1, 501, dtype=torch.float64))
    table = LatencyTable({key: float(i) for i, key in enumerate(keys)})
    drawn = space().sample(300, torch.Generator().manual_seed(0))
    blocks = own.blocks(*drawn)
    assert table(blocks)[7] == sum(table.entries[block.table_keys()[7]] for block in blocks)
    del table.entries[blocks[2].table_keys()[0]]
    with pytest.raises(UserError, match="the latency table has no entry"):
        table(blocks)


def test_blocks_of_the_table_are_timed_and_predict_the_network(tmp_path: Path) -> None:
    config = parse(SupernetConfig, SMALL | {"resolutions": (8, 8), "min_width": 0.9}, "test")
    own = layout()
    table = measured_table(own, config, lambda network, example: float(network.eval()(example).numel()))
    table.save(tmp_path / "table.json")
    again = LatencyTable.load(tmp_path / "table.json")
    assert again.entries == table.entries
    blocks = own.of(Subnet(8, (1.0,) * 5))
    expected = sum(float(block.outputs * (1 if block.kind == "linear" else block.size_out**2)) for block in blocks)
    assert again(blocks)[0] == expected
    network, example = block_of(("inverted", 14, 24, 32, 144, 3, 2, 1), nn.ReLU6)
    assert network(example).shape == (1, 32, 7, 7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist; correct latency_table"),
        ("{}", "is no latency table"),
        ("[[1, 2]]", "is no latency table"),
        ("not JSON", "is no latency table .*at its start"),
        ('[[["stem", 8, 1, 8, 1, 3, 2, 1], -4]]', "greater than or equal to 0 at 0.1"),
    ],
)
def test_a_file_that_is_no_table_is_named(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "table.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=f"table.json .*{message}|table.json {message}"):
        LatencyTable.load(tmp_path / "table.json")


@dataclass
class Part:
    """What a table reads of a block of two structures."""

    keys: list[tuple]

    def table_keys(self) -> list[tuple]:
        return self.keys


def test_two_structures_are_summed_block_by_block() -> None:
    a, b, c = (("stem", size, 3, 8, 3, 3, 2, 1) for size in (8, 16, 24))
    table = LatencyTable({a: 1.5, b: 2.25, c: 100.0})
    assert table([Part([a, b]), Part([b, b]), Part([b, c])]).tolist() == [1.5 + 2.25 + 2.25, 2.25 + 2.25 + 100]


def test_a_space_has_every_block_once_and_the_head_and_classifier_of_the_network() -> None:
    keys = keys_of(layout("mobilenet_v2"), (128,), torch.tensor([0.75, 1.0], dtype=torch.float64))
    assert len(keys) == len(set(keys))
    assert [key for key in keys if key[0] in ("head", "linear")] == [
        *(("head", 4, inputs, 1280, inputs, 1, 1, 0) for inputs in (240, 320)),
        ("linear", 4, 1280, 1000, 1280, 1, 1, 0),
    ]


def test_timing_changes_no_random_number() -> None:
    config = parse(SupernetConfig, SMALL | {"resolutions": (8, 8), "min_width": 1.0}, "test")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    measured_table(layout(), config, lambda network, example: 1.0)
    assert torch.equal(torch.rand(3), expected)
