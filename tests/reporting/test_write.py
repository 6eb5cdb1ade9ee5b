"""The report as a whole."""

from types import SimpleNamespace

from compressbench.reporting import outputs


def test_writes_exactly_the_files_that_are_known_in_advance(project: SimpleNamespace) -> None:
    written = {str(p.relative_to(project.out)) for p in project.written}
    assert written == set(outputs(project.runs, project.declarations))
    assert all(p.stat().st_size > 0 for p in project.written)
