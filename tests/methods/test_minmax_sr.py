"""MinMax on super-resolution networks: calibration in full precision, PTQ and QAT."""

from pathlib import Path

import pytest
import torch

from compressbench import storage
from compressbench.layers.observed import ObservedActivation
from methods.baselines.minmax_sr.method import MinMaxSR
from tests.contexts.super_resolution import make_sr_context


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
def test_ranges_are_the_extremes_of_the_dense_model_over_the_calibration_batches(tmp_path: Path, scheme: str) -> None:
    ctx = make_sr_context(tmp_path, "compress")
    model = MinMaxSR(MinMaxSR.Config.model_validate({"bits": 2, "scheme": scheme})).compress(ctx)
    batches, dense, seen = ctx.batches(ctx.recipes.finetune), ctx.dense(), []
    dense.get_submodule("blocks.1.q3").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for step in range(2):
            dense(batches(step)[0])
    observed = model.get_submodule("blocks.1.q3")
    torch.testing.assert_close(observed.upper, torch.cat(seen).max().clamp(min=0))
    torch.testing.assert_close(observed.lower, torch.cat(seen).min().clamp(max=0))


def test_activations_after_relu_get_the_unsigned_grid(tmp_path: Path) -> None:
    model = MinMaxSR(MinMaxSR.Config(bits=2)).compress(make_sr_context(tmp_path, "compress"))
    signs = {n: m.signed for n, m in model.named_modules() if isinstance(m, ObservedActivation)}
    assert {name: sign for name, sign in signs.items() if name.endswith("q2")} == {
        "blocks.0.q2": False,
        "blocks.1.q2": False,
    }
    assert all(sign for name, sign in signs.items() if not name.endswith("q2"))


@pytest.mark.parametrize("trained", [False, True])
def test_stages_leave_a_loadable_model(tmp_path: Path, trained: bool) -> None:
    method = MinMaxSR(MinMaxSR.Config(bits=3, trained=trained))
    storage.save_model(method.compress(make_sr_context(tmp_path, "compress")), tmp_path / "compressed")
    loaded = storage.load_model(tmp_path / "compressed")
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    after = method.finetune(make_sr_context(tmp_path, "finetune"), loaded).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before) != trained
