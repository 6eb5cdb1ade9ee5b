"""The plan beside its runs: what the last run was about."""

from pathlib import Path

from compressbench.files import write_json
from compressbench.plan import last_run, last_run_file


def test_the_last_run_of_a_scale_is_what_it_was_restricted_to(tmp_path: Path) -> None:
    assert last_run(tmp_path, "smoke") == {}
    write_json(tmp_path / last_run_file("smoke"), {"scale": "smoke", "methods": ["snip"], "seeds": [1]})
    assert last_run(tmp_path, "smoke") == {"methods": ["snip"], "seeds": [1]}
    assert last_run(tmp_path, "desk") == {}
