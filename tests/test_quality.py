"""Accuracy, also by session, PSNR and SSIM; scikit-image is the reference for SSIM."""

import math

import pytest
import torch
from torch import nn

from compressbench import data, models, quality
from compressbench.data.imresize import upscale_bicubic
from compressbench.data.super_resolution import ImagePair
from compressbench.errors import UserError
from compressbench.finite import NotFinite
from compressbench.method.tasks import TASKS, Beside
from compressbench.models.vit import EarlyExit
from compressbench.training.distillation import peer_accuracies


def photograph(seed: int, side: int = 64) -> torch.Tensor:
    return torch.randint(256, (3, side, side), generator=torch.Generator().manual_seed(seed)).float()


class Bicubic(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return upscale_bicubic(x, 2)


def test_luma_of_white_and_black():
    assert quality.luma(torch.full((3, 1, 1), 255.0)).item() == pytest.approx(235)
    assert quality.luma(torch.zeros(3, 1, 1)).item() == 16
    assert quality.luma(torch.full((1, 1, 1), 255.0)).item() == pytest.approx(235)


def test_psnr_of_one_grey_level():
    image = photograph(0).clamp(max=254)
    assert quality.psnr_y(image + 1, image, 2) == pytest.approx(49.4527, abs=5e-5)


def test_identical_images():
    image = photograph(0)
    assert quality.psnr_y(image, image, 2) == math.inf
    assert quality.ssim_y(image, image, 2) == pytest.approx(1, abs=1e-12)


def test_border_does_not_count_and_results_are_rounded():
    image = photograph(0)
    changed = image.clone()
    changed[:, :2] = changed[:, -2:] = 255 - changed[:, :2]
    changed[..., :2] = 0
    changed[..., -2:] = 255
    assert quality.psnr_y(changed, image, 2) == math.inf
    assert quality.psnr_y(changed, image, 1) < 40
    assert quality.psnr_y(image + 0.4, image, 2) == math.inf


def test_reference_is_cropped_to_the_result():
    image = photograph(0)
    assert quality.psnr_y(image[:, :60, :62], image, 2) == math.inf
    with pytest.raises(ValueError, match="compare"):
        quality.psnr_y(image, image[:, :60], 2)


def test_ssim_equals_scikit_image():
    from skimage.metrics import structural_similarity

    hr = photograph(1)
    sr = (hr + 20 * torch.randn(hr.shape, generator=torch.Generator().manual_seed(2))).clamp(0, 255)
    a, b = (quality.luma(quality.to_levels(x))[2:-2, 2:-2].numpy() for x in (sr, hr))
    # With this truncation its window is 11 pixels wide; `full` gives the map, whose border of 5 is not "valid".
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255, "full": True}
    _, full = structural_similarity(a, b, **options)
    assert quality.ssim_y(sr, hr, 2) == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-9)


def test_top1_is_a_percentage_over_uneven_batches_in_eval_mode():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9)).train()
    images = torch.eye(10)[:, None, None]
    labels = torch.arange(10)
    labels[7:] = 0
    assert quality.top1(model, data.Split(images, labels), batch=4) == 70.0
    assert model.training


def test_infinite_psnr_is_not_averaged():
    assert quality.mean_of_finite([30.0, math.inf, 40.0]) == 35.0
    assert quality.mean_of_finite([math.inf]) == math.inf
    flat = ImagePair("flat", torch.full((3, 8, 8), 9.0), torch.full((3, 16, 16), 9.0))
    noisy = ImagePair("noisy", photograph(3, 16), photograph(4, 32))
    result = quality.evaluate_super_resolution(Bicubic(), [flat, noisy], 2)
    assert result["images"]["flat"]["psnr"] == math.inf
    assert result["psnr"] == result["images"]["noisy"]["psnr"]


def test_bicubic_on_the_photographs_gives_the_known_psnr(data_root, tmp_path):
    loaded = data.load("photographs", data_root / "data")
    result = quality.evaluate_super_resolution(Bicubic(), loaded.test, 2, pictures=tmp_path / "images")
    assert result["psnr"] == pytest.approx(31.31, abs=0.005)
    assert len(result["images"]) == 4
    assert len(list((tmp_path / "images").glob("*.png"))) == 12
    assert set(tmp_path.joinpath("images").glob("china_*")) == {
        tmp_path / f"images/china_{kind}.png" for kind in ("sr", "bicubic", "hr")
    }


def test_accuracy_after_a_session_weighs_sessions_by_their_classes():
    score = quality.session_score([[60.0], [50.0, 10.0]], [60, 5])
    assert score.accuracy == pytest.approx(46.9231, abs=5e-5)
    assert (score.new, score.old, score.forgetting) == (10.0, 50.0, 10.0)
    first = quality.session_score([[60.0]], [60, 5])
    assert (first.accuracy, first.new, first.old, first.forgetting) == (60.0, 60.0, None, None)


def test_forgetting_is_measured_from_the_best_so_far():
    score = quality.session_score([[80.0], [90.0, 40.0], [70.0, 50.0, 10.0]], [6, 2, 2])
    assert score.forgetting == pytest.approx((20 - 10) / 2)
    assert score.old == pytest.approx((70 * 6 + 50 * 2) / 8)


def test_images_of_unseen_classes_are_not_scored():
    labels = torch.tensor([0, 0, 1, 2, 2])
    predicted = torch.tensor([0, 1, 1, 0, 2])
    assert quality.session_accuracies(predicted, labels, [1, 1]) == [50.0, 100.0]
    assert quality.session_accuracies(predicted, labels, [1, 1, 1]) == [50.0, 100.0, 50.0]


def test_sessions_are_evaluated_by_draw():
    labels = torch.arange(4)
    kept = {f"predictions/{d}/{s}": labels.clone() for d in range(2) for s in range(2)}
    kept["predictions/1/1"] = torch.tensor([0, 3, 3, 3])
    found = quality.evaluate_sessions(kept, labels, [2, 2])
    assert found["top1"] == 75 and found["forgetting"] == 25 and found["performance_drop"] == 25
    assert found["average_top1"] == 87.5
    row = found["sessions"][-1]
    assert (row["draw"], row["session"], row["classes"], row["accuracy"]) == (1, 1, 4, 50)
    assert row["by_session"] == [50, 50]
    del kept["predictions/1/0"]
    with pytest.raises(UserError, match="predictions of 3 networks"):
        quality.evaluate_sessions(kept, labels, [2, 2])


# ---- networks that put out no numbers


class Spoiled(nn.Module):
    """A network one of whose 5 images, or every image, comes out as `value` somewhere."""

    def __init__(self, value: float, image: int = 3) -> None:
        super().__init__()
        self.value, self.image = value, image

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs = images.clone()
        outputs[min(self.image, len(images) - 1), 1] = self.value
        return outputs

    def predictions(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"student0": images, "student1": self(images)}


VALUES = [float("nan"), float("inf"), float("-inf")]


@pytest.mark.parametrize("value", VALUES)
def test_accuracy_of_a_network_without_numbers_is_an_error_that_names_it(value: float) -> None:
    split = data.Split(torch.eye(5), torch.arange(5))
    assert quality.top1(nn.Identity(), split) == 100
    with pytest.raises(NotFinite, match="Spoiled puts out NaN or infinity for 1 of 5 inputs"):
        quality.top1(Spoiled(value), split)
    with pytest.raises(NotFinite, match="student1 of Spoiled puts out NaN"):
        peer_accuracies(Spoiled(value), split)
    with pytest.raises(NotFinite, match="after session 2 puts out NaN"):
        quality.predictions(Spoiled(value), torch.eye(5), name="the network after session 2")


@pytest.mark.parametrize("value", VALUES)
def test_enlarged_image_without_numbers_is_an_error_that_names_network_and_image(value: float, tmp_path) -> None:
    pair = ImagePair("castle", photograph(0, 16), photograph(0, 16))
    loaded = type("Loaded", (), {"test": [pair], "upscaling": 1})
    with pytest.raises(NotFinite, match="Spoiled, given castle, puts out NaN or infinity"):
        TASKS["super_resolution"].evaluate(Spoiled(value), loaded, Beside({}, tmp_path))
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("metric", quality.METRICS)
def test_nan_has_no_grey_level(metric: str) -> None:
    image = photograph(0).float()
    with pytest.raises(ValueError, match="NaN"):
        quality.METRICS[metric](image * float("nan"), image, 2)


def test_a_mean_leaves_out_perfect_images_only() -> None:
    assert quality.mean_of_finite([1.0, 3.0, math.inf]) == 2
    assert math.isnan(quality.mean_of_finite([1.0, float("nan")]))


def test_a_session_without_test_images_has_no_accuracy() -> None:
    with pytest.raises(UserError, match="session 1 has no test image"):
        quality.session_accuracies(torch.zeros(3), torch.zeros(3), [1, 1])


def test_an_image_without_numbers_does_not_exit_early() -> None:
    logits = torch.tensor([[9.0, 0.0], [float("nan"), 0.0], [0.1, 0.0]])
    model = EarlyExit(models.build("coarse_to_fine_vit"), 0.9)
    assert model.undecided(logits).tolist() == [1, 2]


# ---- fidelity


class Fixed(nn.Module):
    """Puts out the rows of a table, in order."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.rows, self.next = torch.tensor(rows), 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.next += len(images)
        return self.rows[self.next - len(images) : self.next]


def test_fidelity_is_agreement_divergence_and_noise_over_all_images():
    expected, found = [[2.0, 0.0], [0.0, 1.0], [3.0, 1.0]], [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    scores = quality.fidelity(Fixed(found), Fixed(expected), torch.zeros(3, 1), batch=2)
    p, q = torch.tensor(expected).double().softmax(1), torch.tensor(found).double().softmax(1)
    assert scores["agreement"] == pytest.approx(200 / 3)
    assert scores["kl_divergence"] == pytest.approx(float((p * (p / q).log()).sum() / 3))
    assert scores["logits_snr"] == pytest.approx(10 * math.log10((4 + 1 + 10) / (1 + 9)))


def test_a_network_agrees_with_itself_and_has_no_noise():
    same = [[2.0, 0.0], [0.0, 1.0]]
    scores = quality.fidelity(Fixed(same), Fixed(same), torch.zeros(2, 1))
    assert scores == {"agreement": 100, "kl_divergence": 0}


def test_a_network_that_puts_out_nan_has_no_fidelity():
    with pytest.raises(NotFinite, match="Fixed puts out NaN"):
        quality.fidelity(Fixed([[math.nan, 0.0]]), Fixed([[1.0, 0.0]]), torch.zeros(1, 1))
