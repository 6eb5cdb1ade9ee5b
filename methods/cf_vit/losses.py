"""The losses of both passes: with labels of the image (DeiT), and with labels of every token (LV-ViT)."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from compressbench.data.mixing import Box, MixedBatches, draw_box, paste
from compressbench.models.vit import CoarseToFineViT
from compressbench.seeding import derive_seed


def agreement(coarse: Tensor, fine: Tensor) -> Tensor:
    """KL(softmax(z_f) ‖ softmax(z_c)) of logits [B, classes]; the fine pass teaches and learns nothing from it."""
    return F.kl_div(coarse.log_softmax(1), fine.detach().log_softmax(1), reduction="batchmean", log_target=True)


def two_pass_loss(model: CoarseToFineViT, images: Tensor, labels: Tensor) -> Tensor:
    """CE(z_f, y) + KL: images [B, c, H, W], soft labels [B, classes]. The coarse prediction never sees the labels."""
    images = model.backbone.pad(images)
    coarse = model.coarse(images)
    fine = model.backbone.logits(model.fine(images, coarse))
    return F.cross_entropy(fine, labels) + agreement(coarse.logits, fine)


@dataclass(frozen=True)
class MixTokenBatches:
    """The batches of `source`, each with a box on the coarse grid that keeps the share Beta(1, 1) outside."""

    source: MixedBatches
    grid: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return self.source.steps_per_epoch

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Box]:
        """Images [B, c, H, W], soft labels [B, classes], box of one step."""
        rng = np.random.default_rng(derive_seed(self.seed, "box", step))
        return *self.source(step), draw_box(self.grid, self.grid, float(rng.beta(1, 1)), rng)


def token_labelling_loss(model: CoarseToFineViT, images: Tensor, labels: Tensor, box: Box) -> Tensor:
    """CE(class token, mixed labels) + CE(all tokens, their own labels) of the fine pass, + KL of the class tokens.

    Within `box` (on the coarse grid) the patches of both passes are those of the mirror image in the batch; so the token logits
    are put back there before they are compared. Images [B, c, H, W], soft labels [B, classes].
    """
    vit, side = model.backbone, 2 * model.grid
    assert vit.token_head is not None
    images = vit.pad(images)

    def mix(patches: Tensor, grid: int) -> Tensor:
        doubled = Box(*(edge * grid // model.grid for edge in box))
        return paste(patches.transpose(1, 2).unflatten(2, (grid, grid)), doubled).flatten(2).transpose(1, 2)

    coarse = model.coarse(images, mix)
    features = model.fine(images, coarse, mix)
    fine = vit.classifier(features[:, 0])
    cells = model.cells(coarse)[:, :, None].expand(-1, -1, labels.shape[1])
    tokens = mix(vit.token_head(features).gather(1, cells), side)
    kept = 1 - box.area / model.grid**2
    class_loss = F.cross_entropy(fine, torch.lerp(labels.flip(0), labels, kept))
    token_loss = F.cross_entropy(tokens.flatten(0, 1), labels.repeat_interleave(side**2, 0))
    return class_loss + token_loss + agreement(vit.classifier(coarse.features[:, 0]), fine)
