from types import SimpleNamespace


def test_the_reference_itself_has_no_change(report: SimpleNamespace) -> None:
    text = (report.out / "tables/comparison_fashion_mnist_resnet_mini.md").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("| Dense |"))
    assert line.split("|")[4].strip() == "–"


def test_what_is_equal_in_every_row_is_said_once(report: SimpleNamespace) -> None:
    text = (report.out / "tables/comparison_fashion_mnist_resnet8.md").read_text(encoding="utf-8")
    assert "MACs" not in text.splitlines()[2] and "bit-operations" in text.splitlines()[2]
    assert "The same in every row:" in text and "MACs 12.5 M" in text
