"""Neuron Merging: the authors' rule, the scale that follows from the batch norms, and what a merge preserves."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compressbench.plan import Plan
from compressbench.training.checkpoint import same_bits
from methods.baselines.neuron_merging.method import NeuronMerging, merging, rescaled
from tests.conftest import ROOT
from tests.contexts import make_context

KEPT = torch.tensor([0, 2, 3, 5, 8])


def layer(seed: int = 0, bias: bool = False) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """Nine filters that are similar enough for some to be merged."""
    torch.manual_seed(seed)
    conv, norm = nn.Conv2d(2, 9, 3, bias=bias).double(), nn.BatchNorm2d(9).double().eval()
    with torch.no_grad():
        conv.weight += 0.15
        norm.weight.normal_(1, 0.3)
        norm.bias.normal_(0, 0.3)
        norm.running_mean.normal_(0, 0.3)
        norm.running_var.uniform_(0.5, 2)
    return conv, norm


def merged(conv: nn.Conv2d, norm: nn.BatchNorm2d, kept: Tensor = KEPT, **options: object) -> Tensor:
    chosen = {"balance": 0.85, "threshold": 0.1, "scale": "derived", "sigma": "deviation"} | options
    return merging(conv.weight, conv.bias, norm, kept, **chosen)  # type: ignore[arg-type]


def by_loops(conv: nn.Conv2d, norm: nn.BatchNorm2d, sigma: Tensor, threshold: float) -> Tensor:
    """The published rule, one pair of channels at a time, in the notation of the specification."""
    weight, gamma, beta, mu = conv.weight.flatten(1), norm.weight, norm.bias, norm.running_mean
    mixing = torch.zeros(len(KEPT), len(weight), dtype=torch.float64)
    for j in range(len(weight)):
        if j in KEPT.tolist():
            mixing[KEPT.tolist().index(j), j] = 1
            continue
        cosines, scales, biases = [], [], []
        for i in KEPT.tolist():
            cosines.append(torch.cosine_similarity(weight[j], weight[i], dim=0).item())
            s = (weight[j].norm() / weight[i].norm()).item()
            t = s * (gamma[i] / gamma[j] * sigma[j] / sigma[i]).item()
            inner = s * (mu[j] - sigma[j] * beta[j] / gamma[j]) - mu[i]
            scales.append(t)
            biases.append(abs((gamma[i] / sigma[i] * inner + beta[i]).item()) / t)
        low, high = min(biases), max(biases)
        scores = [0.85 * (1 - c) + 0.15 * (b - low) / (high - low) for c, b in zip(cosines, biases, strict=True)]
        best = scores.index(min(scores))
        if cosines[best] >= threshold:
            mixing[best, j] = scales[best]
    return mixing


@pytest.mark.parametrize("sigma", ["deviation", "variance"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("threshold", [0.1, 0.8])
def test_the_published_rule(sigma: str, seed: int, threshold: float) -> None:
    conv, norm = layer(seed)
    values = norm.running_var if sigma == "variance" else (norm.running_var + norm.eps).sqrt()
    expected = by_loops(conv, norm, values, threshold)
    found = merged(conv, norm, sigma=sigma, scale="published", threshold=threshold)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert int((found != 0).sum()) <= 9


def test_the_derived_scale_merges_into_the_same_channel() -> None:
    conv, norm = layer()
    derived, published = merged(conv, norm), merged(conv, norm, scale="published")
    assert torch.equal(derived != 0, published != 0)
    norms = conv.weight.detach().flatten(1).norm(dim=1)
    ratios = norms / norms[KEPT][:, None]
    pruned = published != 0
    torch.testing.assert_close((derived * published)[pruned], ratios.square()[pruned])


@pytest.mark.parametrize("bias", [False, True])
def test_a_scaled_copy_is_merged_exactly_by_the_derived_scale_only(bias: bool) -> None:
    """Filter 4 is twice filter 2 and its output, after the batch norm, is u = 1.2 times that of filter 2."""
    conv, norm = layer(bias=bias)
    with torch.no_grad():
        conv.weight[4] = 2 * conv.weight[2]
        deviation = (norm.running_var + norm.eps).sqrt()
        norm.weight[4] = 1.2 * norm.weight[2] / deviation[2] * deviation[4] / 2
        offset = conv.bias if bias else torch.zeros(9, dtype=torch.float64)
        slope = norm.weight / deviation
        zero = norm.bias[2] + (offset[2] - norm.running_mean[2]) * slope[2]
        norm.bias[4] = 1.2 * zero - (offset[4] - norm.running_mean[4]) * slope[4]
    images = torch.randn(1, 2, 6, 6, dtype=torch.float64)
    outputs = norm(conv(images))[0]
    torch.testing.assert_close(outputs[4], 1.2 * outputs[2])
    column = merged(conv, norm)[:, 4]
    assert column.tolist() == pytest.approx([0, 1.2, 0, 0, 0])
    wrong = merged(conv, norm, scale="published")[:, 4]
    assert wrong[1].item() == pytest.approx(4 / 1.2)


def test_dissimilar_filters_are_dropped() -> None:
    conv, norm = layer()
    assert torch.equal(merged(conv, norm, threshold=1.0), torch.eye(9, dtype=torch.float64)[KEPT])


@pytest.mark.parametrize("scale", ["derived", "published"])
def test_what_has_no_scale_is_not_merged_and_spoils_no_other_merge(scale: str) -> None:
    """Kept filters 0 (no weights) and 2 (no gamma), removed ones 1 (no weights) and 4 (no gamma)."""
    conv, norm = layer()
    with torch.no_grad():
        conv.weight[:2] = 0
        norm.weight[[2, 4]] = 0
    found = merged(conv, norm, scale=scale)
    alone = merged(conv, norm, torch.tensor([3, 5, 8]), scale=scale)
    assert torch.equal(found[[0, 1]], torch.eye(9, dtype=torch.float64)[[0, 2]])
    assert torch.equal(found[2:, [6, 7]], alone[:, [6, 7]]) and (found[:, [6, 7]] != 0).any()
    assert torch.equal(found[:, [1, 4]], torch.zeros(5, 2, dtype=torch.float64))


def test_rescaled_bias_terms() -> None:
    assert rescaled(torch.tensor([[1.0, 3.0, 2.0], [4.0, 4.0, 4.0]])).tolist() == [[0, 1, 0.5], [0, 0, 0]]
    conv, norm = layer()
    alone = merged(conv, norm, torch.tensor([3]))
    assert alone.isfinite().all(), "a single kept filter has nothing to rescale by"


def test_it_reads_no_data_and_ends_in_the_same_bits(data_root: Path, tmp_path: Path) -> None:
    results = []
    for _ in range(2):
        ctx = make_context(data_root, tmp_path)
        ctx.__dict__["data"] = None
        results.append(NeuronMerging(NeuronMerging.Config(ratio=0.5)).compress(ctx))
    assert same_bits(results[0].state_dict(), results[1].state_dict())
    assert [results[0].get_submodule(f"stages.{s}.0.conv1").out_channels for s in range(3)] == [2, 4, 4]


def test_settings() -> None:
    declared = Plan(ROOT, "paper", ["neuron_merging"]).declarations["neuron_merging"]
    configs = {name: NeuronMerging.Config(**own.hyperparameters) for name, own in declared.settings.items()}
    assert all(declared.label_of(name) != name for name in configs)
    assert not configs["p30_w6"].mean_restoration and configs["p30_w6"].scale == "derived"
    assert configs["published_p30_w6"].sigma == "variance" and configs["means_p50_w6"].mean_restoration
    for wrong in ({"balance": 1.1}, {"threshold": -2}, {"scale": "other"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            NeuronMerging.Config(**wrong)
