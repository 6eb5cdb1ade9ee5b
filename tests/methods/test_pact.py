"""PACT: the clip point's gradient, DoReFa's weights, and the stages on a super-resolution network."""

from pathlib import Path

import pytest
import torch

from compressbench import storage
from methods.baselines.pact.method import PACT
from tests.contexts.super_resolution import make_sr_context


def test_stages_leave_a_loadable_model_whose_clip_points_have_learned(tmp_path: Path) -> None:
    method = PACT(PACT.Config(bits=2))
    storage.save_model(method.compress(make_sr_context(tmp_path, "compress")), tmp_path / "compressed")
    tuned = method.finetune(make_sr_context(tmp_path, "finetune"), storage.load_model(tmp_path / "compressed"))
    storage.save_model(tuned, tmp_path / "tuned")
    restored = storage.load_model(tmp_path / "tuned").state_dict()
    assert all(torch.equal(restored[name], tensor) for name, tensor in tuned.state_dict().items())
    alphas = [tensor.item() for name, tensor in restored.items() if name.endswith(".scalar")]
    assert len(alphas) == 6
    assert any(alpha != 10.0 for alpha in alphas)


@pytest.mark.parametrize("bits", [1, 8])
def test_other_bit_widths_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="bits"):
        PACT.Config.model_validate({"bits": bits})
