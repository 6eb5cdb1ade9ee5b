"""What the kernels must reach, asserted on the committed tables of the last `make bench-kernels`.

The bounds are those of a study on another machine; a tenth is left to noise and to the machine.
"""

import pandas as pd
import pytest

from tests.conftest import ROOT

TABLES = ROOT / "reports/tables"
NOISE = 0.9


@pytest.fixture(scope="module")
def sums() -> pd.DataFrame:
    """Speed-up and share of peak by (network, kernel, form, N, sparsity), one thread."""
    table = pd.read_csv(TABLES / "kernel_sums.csv").query("threads == 1")
    return table.set_index(["network", "kernel", "form", "n", "sparsity"])


@pytest.mark.parametrize(
    ("network", "kernel", "n", "sparsity", "bound"),
    [
        ("ResNet-50", 1, 4, 0.75, 3.7), ("ResNet-50", 1, 16, 0.75, 4.0),
        ("ResNet-50", 1, 4, 0.9, 8.2), ("ResNet-50", 1, 16, 0.9, 9.0),
        ("MobileNet-V2", 1, 16, 0.5, 1.9), ("MobileNet-V2", 1, 4, 0.75, 2.7), ("MobileNet-V2", 1, 16, 0.75, 3.1),
        ("MobileNet-V2", 1, 4, 0.9, 4.1), ("ResNet-50", 3, 4, 0.75, 3.1), ("ResNet-50", 3, 4, 0.9, 6.2),
    ],
)  # fmt: skip
def test_sums_of_layers_beat_the_best_dense_forms(sums, network, kernel, n, sparsity, bound) -> None:
    assert sums.loc[(network, kernel, "sparse", n, sparsity), "speedup"] >= NOISE * bound


def test_kept_weights_run_near_the_peak(sums) -> None:
    assert sums.loc[("ResNet-50", 1, "sparse", 16, 0.75), "peak_share"] >= NOISE * 0.85


def test_every_binary_shape_of_resnet18_beats_fp32() -> None:
    layers = pd.read_csv(TABLES / "kernel_layers.csv").query("network == 'ResNet-18' and kernel == 3 and threads == 1")
    dense = layers[~layers.form.isin(["sparse", "binary", "peak"])].groupby("layer").min_ms.min()
    binary = layers[layers.form == "binary"].set_index("layer").min_ms
    assert len(binary) == 7
    assert (dense / binary >= NOISE * 7.5).all()


def test_two_threads_share_the_work() -> None:
    scaling = pd.read_csv(TABLES / "kernel_scaling.csv").query(
        "sparsity == 0.75 and network == 'ResNet-50' and kernel == 1 and share == 'work'"
    )
    assert len(scaling) == 4
    assert (scaling.alone_ms / scaling.together_ms >= NOISE * 1.8).all()


def test_what_ran_is_recorded() -> None:
    ours = pd.read_csv(TABLES / "kernel_layers.csv").query("form == 'sparse'")
    assert ours.isa.isin(["AVX512", "AVX2", "PORTABLE"]).all()
    assert ours.tile.str.fullmatch(r"\d+x\d+").all()


def test_the_page_on_kernels_shows_the_measured_numbers(sums) -> None:
    page = (ROOT / "docs/kernels.md").read_text(encoding="utf-8")
    for network, kernel, name in (("ResNet-50", 1, "1x1"), ("ResNet-50", 3, "3x3"), ("MobileNet-V2", 1, "1x1")):
        for n in (1, 4, 16):
            row = [sums.loc[(network, kernel, "sparse", n, s), "speedup"] for s in (0.5, 0.75, 0.9)]
            cells = " | ".join(f"{ratio:.2f}" for ratio in row)
            assert f"| {network}, {name} | {'unstructured' if n == 1 else f'1x{n}'} | {cells} |" in page
    networks = pd.read_csv(TABLES / "kernel_networks.csv").query("threads == 1")
    for network, own in networks.groupby("network"):
        ratio = own[own.form == "dense"].min_ms.min() / own[own.form == "sparse"].min_ms.item()
        assert f"{network} {ratio:.2f}" in page
