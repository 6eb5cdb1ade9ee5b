"""Vision transformers: DeiT (Touvron et al. 2021), LV-ViT (Jiang et al. 2021), and CF-ViT's coarse-to-fine pair of passes.

Shapes: B images, T tokens, d channels, H heads, G tokens along a side.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressbench.accounting import account
from compressbench.models.structure import Classifier

Embedding = Literal["linear", "convolutional"]
Regions = Literal["top", "lowest", "random", "all"]
Mix = Callable[[Tensor, int], Tensor]
"""Patch embeddings [B, G², d] and G -> the embeddings of mixed images."""
TOKEN_SHARE = 0.25  # of the largest token logit in LV-ViT's prediction


class DotProduct(nn.Module):
    """softmax(q kᵀ / √(d/H)) v, the two products of an attention layer; it has no weights."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[B, H, T, d/H] each -> the same shape."""
        return F.scaled_dot_product_attention(q, k, v)

    def product_macs(self, inputs: tuple[Tensor, ...], output: Tensor) -> int:
        """2 T² d per image."""
        return 2 * inputs[0].numel() * inputs[0].shape[2]


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.product = DotProduct()
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor, observed: bool = False) -> tuple[Tensor, Tensor | None]:
        """[B, T, d] -> the same shape; where `observed`, also the class token's attention, a mean over heads [B, T]."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, self.head_width)).permute(2, 0, 3, 1, 4).unbind(0)
        row = None
        if observed:
            scores = q[:, :, :1].detach() @ k.detach().transpose(2, 3)
            row = (scores * self.head_width**-0.5).softmax(3).mean(1).squeeze(1)
        return self.project(self.product(q, k, v).transpose(1, 2).flatten(2)), row

    def product_macs(self, inputs: tuple[Tensor, ...], output: object) -> int:
        """Nothing beside its parts: the papers do not count the observed row again."""
        return 0


class DropPath(nn.Module):
    """Leaves a residual branch out for a random share of the images, in training (stochastic depth)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, d] -> the same shape."""
        if not self.training or self.rate == 0:
            return x
        kept = torch.rand(len(x), 1, 1, device=x.device) >= self.rate
        return x * kept / (1 - self.rate)


class Block(nn.Module):
    """x + s·attention(LN(x)), then x + s·MLP(LN(x))."""

    def __init__(
        self, width: int, heads: int, mlp_ratio: int, qkv_bias: bool, eps: float, branch_scale: float, drop_path: float
    ) -> None:
        super().__init__()
        self.branch_scale = branch_scale
        self.norm1 = nn.LayerNorm(width, eps)
        self.attention = Attention(width, heads, qkv_bias)
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = mlp(width, mlp_ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, observed: bool = False) -> tuple[Tensor, Tensor | None]:
        """As `Attention.forward`."""
        attended, row = self.attention(self.norm1(x), observed)
        x = x + self._branch(attended)
        return x + self._branch(self.mlp(self.norm2(x))), row

    def _branch(self, x: Tensor) -> Tensor:
        return self.drop_path(x if self.branch_scale == 1 else x * self.branch_scale)


def mlp(width: int, ratio: int) -> nn.Sequential:
    """Two linear layers with a GELU between them."""
    return nn.Sequential(nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width))


def patch_embedding(kind: Embedding, in_channels: int, width: int, patch: int) -> nn.Sequential:
    """[B, c, H, W] -> [B, d, H/P, W/P]: one convolution of stride P (DeiT), or LV-ViT's four of stride 2, 1, 1 and P/2."""
    if kind == "linear":
        return nn.Sequential(nn.Conv2d(in_channels, width, patch, patch))
    layers: list[nn.Module] = []
    for inputs, kernel, stride in ((in_channels, 7, 2), (64, 3, 1), (64, 3, 1)):
        convolution = nn.Conv2d(inputs, 64, kernel, stride, kernel // 2, bias=False)
        layers += [convolution, nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(64, width, patch // 2, patch // 2))


class VisionTransformer(Classifier):
    """Patches, a class token, `depth` blocks, LayerNorm, and a linear head on the class token.

    Args:
        image_size: side of the square image; `padding` pixels of `padding_value` are added on every side.
        shrink: divides the side of the (padded) image before it is cut into patches.
        branch_scale: factor of every residual branch (LV-ViT: 1/2).
        token_head: LV-ViT's second head, on every other token; the logits are class + 0.25·max over tokens.
        drop_path: of the last block; it rises linearly from 0.

    Raises:
        ValueError: when the image is no whole number of patches, or the width no multiple of the heads.
    """

    def __init__(
        self,
        image_size: int = 224,
        patch: int = 16,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_ratio: int = 4,
        qkv_bias: bool = True,
        norm_eps: float = 1e-6,
        in_channels: int = 3,
        classes: int = 1000,
        embedding: Embedding = "linear",
        branch_scale: float = 1.0,
        token_head: bool = False,
        drop_path: float = 0.0,
        padding: int = 0,
        padding_value: float = 0.0,
        shrink: int = 1,
    ) -> None:
        super().__init__()
        side = image_size + 2 * padding
        if side % (shrink * patch):
            raise ValueError(
                f"an image of {side} pixels, shrunk {shrink} times, is no whole number of {patch}-pixel patches"
            )
        if width % heads:
            raise ValueError(f"a width of {width} cannot be shared by {heads} heads")
        if embedding not in ("linear", "convolutional"):
            raise ValueError(f"embedding must be 'linear' or 'convolutional', not {embedding!r}")
        self.width, self.mlp_ratio, self.norm_eps = width, mlp_ratio, norm_eps
        self.padding, self.padding_value, self.shrink = padding, padding_value, shrink
        self.side, self.grid = side // shrink, side // shrink // patch
        self.embed = patch_embedding(embedding, in_channels, width, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + self.grid**2, width))
        rates = [drop_path * i / max(1, depth - 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio, qkv_bias, norm_eps, branch_scale, rate) for rate in rates
        )
        self.norm = nn.LayerNorm(width, norm_eps)
        self.classifier = nn.Linear(width, classes)
        self.token_head = nn.Linear(width, classes) if token_head else None
        initialise(self)

    def pad(self, images: Tensor) -> Tensor:
        """[B, c, H, W] with its frame."""
        return F.pad(images, (self.padding,) * 4, value=self.padding_value) if self.padding else images

    def patches(self, images: Tensor) -> Tensor:
        """Padded images [B, c, H, W] -> patch embeddings [B, T - 1, d], row by row."""
        return self.embed(images).flatten(2).transpose(1, 2)

    def sequence(self, patches: Tensor, positions: Tensor) -> Tensor:
        """Embeddings [B, T - 1, d] -> with the class token before them, and positions [1, T, d] added."""
        return torch.cat([self.class_token.expand(patches.shape[0], -1, -1), patches], 1) + positions

    def encode(self, tokens: Tensor) -> Tensor:
        """All blocks and the last LayerNorm, [B, T, d] -> the same shape."""
        for block in self.blocks:
            tokens, _ = block(tokens)
        return self.norm(tokens)

    def logits(self, features: Tensor) -> Tensor:
        """Encoded tokens [B, T, d] -> [B, classes]."""
        logits = self.classifier(features[:, 0])
        if self.token_head is None:
            return logits
        return logits + TOKEN_SHARE * self.token_head(features[:, 1:]).amax(1)

    def features(self, images: Tensor) -> Tensor:
        """[B, c, H, W] -> encoded tokens [B, T, d]."""
        images = self.pad(images)
        if self.shrink > 1:
            images = shrink(images, self.side)
        return self.encode(self.sequence(self.patches(images), self.positions))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.features(images))


def shrink(images: Tensor, side: int) -> Tensor:
    """[B, c, H, W] -> [B, c, side, side], bilinear with aligned corners."""
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=True)


def child_tokens(grid: int) -> Tensor:
    """int64 [G², 4]: for every token of a G x G grid, the four that cover it on the 2G x 2G grid, row by row."""
    y, x = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    first = (2 * y * 2 * grid + 2 * x).flatten()
    return first[:, None] + torch.tensor([0, 1, 2 * grid, 2 * grid + 1])


def identity(patches: Tensor, grid: int) -> Tensor:
    """The `Mix` that mixes nothing."""
    return patches


class Coarse(NamedTuple):
    """What the coarse pass leaves: the first axis of all of them is the image."""

    logits: Tensor
    """z_c [B, classes]."""
    tokens: Tensor
    """E, its input [B, 1 + Nc, d]: kept where a region is not refined."""
    features: Tensor
    """h, its output [B, 1 + Nc, d]: reused by the fine pass."""
    attention: Tensor
    """a, the global class attention [B, Nc]."""

    def rows(self, chosen: Tensor) -> "Coarse":
        """The images `chosen` (int64 [n])."""
        return Coarse(*(part.index_select(0, chosen) for part in self))


class CoarseToFineViT(Classifier):
    """CF-ViT (Chen et al. 2023): one transformer, run on the shrunk image and, where that is unsure, on the refined one.

    Nc = G² coarse and Nf = 4 Nc fine patches. The network itself runs both passes on every image; its operating points are
    the coarse pass alone, early exits, and both passes.

    Args:
        backbone: arguments of `VisionTransformer`; its positions are those of the fine pass.
        alpha: share of the coarse patches that the fine pass refines.
        beta: weight of the former layers in the global class attention.
        first_layer: the layer (from 0) whose attention is the first to count.
        thresholds: the confidences (eta) of the early exits, ascending.

    Raises:
        ValueError: when the fine grid is not twice a coarse one, alpha not in (0, 1], no layer is left to count, or a
            threshold not in (0, 1).
    """

    regions: Regions = "top"
    """Which coarse patches the fine pass refines: "top" is the method, "all" its first epochs, the others are controls."""
    children_of: Tensor

    def __init__(
        self,
        backbone: Mapping[str, Any] | None = None,
        alpha: float = 0.5,
        beta: float = 0.99,
        first_layer: int = 3,
        thresholds: Sequence[float] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    ) -> None:
        super().__init__()
        vit = VisionTransformer(**(backbone or {}))
        if vit.grid % 2 or vit.shrink != 1:
            raise ValueError(
                f"the fine grid, {vit.grid}x{vit.grid}, must be twice the coarse one, on images that are not shrunk"
            )
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha, the share of refined patches, must be in (0, 1], not {alpha}")
        if not 0 <= beta < 1:
            raise ValueError(f"beta must be in [0, 1), not {beta}")
        if not 0 <= first_layer < len(vit.blocks):
            raise ValueError(f"first_layer {first_layer} leaves no attention of {len(vit.blocks)} layers")
        if list(thresholds) != sorted(thresholds) or not all(0 < t < 1 for t in thresholds):
            raise ValueError(f"thresholds must rise and lie between 0 and 1, not {list(thresholds)}")
        self.backbone, self.beta, self.first_layer = vit, beta, first_layer
        self.grid = vit.grid // 2
        self.refined = math.ceil(alpha * self.grid**2 - 1e-9)
        self.coarse_positions = nn.Parameter(torch.zeros(1, 1 + self.grid**2, vit.width))
        self.reuse = nn.Sequential(nn.LayerNorm(vit.width, vit.norm_eps), mlp(vit.width, vit.mlp_ratio))
        self.register_buffer("children_of", child_tokens(self.grid), persistent=False)
        initialise(self.reuse)
        nn.init.normal_(self.coarse_positions, std=0.02)
        self.thresholds = {f"t{round(100 * t):02d}": t for t in thresholds}
        self.operating_points = {
            "coarse": "coarse pass only",
            **{name: f"threshold {t:g}" for name, t in self.thresholds.items()},
            "both": "both passes",
        }

    def at(self, point: str) -> nn.Module:
        """The network of one operating point, which shares the weights."""
        if point == "both":
            return self.eval()
        return (CoarseOnly(self) if point == "coarse" else EarlyExit(self, self.thresholds[point])).eval()

    def coarse(self, images: Tensor, mix: Mix = identity) -> Coarse:
        """The first pass on padded images [B, c, H, W]; `mix` changes the patch embeddings (LV-ViT's training)."""
        vit = self.backbone
        tokens = vit.sequence(mix(vit.patches(shrink(images, vit.side // 2)), self.grid), self.coarse_positions)
        x, attention = tokens, torch.zeros((), device=images.device)
        for layer, block in enumerate(vit.blocks):
            x, row = block(x, layer >= self.first_layer)
            if row is not None:
                attention = self.beta * attention + (1 - self.beta) * row
        features = vit.norm(x)
        logits = vit.logits(features)
        if vit.token_head is not None:
            logits = logits / (1 + TOKEN_SHARE)
        return Coarse(logits, tokens, features, attention[:, 1:])

    def fine_sequence(self, images: Tensor, coarse: Coarse, mix: Mix = identity) -> Tensor:
        """F [B, 1 + Nf, d]: patches of the whole image, each with what the coarse pass made of its region."""
        g, vit = self.grid, self.backbone
        reused = self.reuse(coarse.features[:, 1:]).unflatten(1, (g, 1, g, 1))
        reused = reused.expand(-1, -1, 2, -1, 2, -1).flatten(1, 4)
        return vit.sequence(mix(vit.patches(images), 2 * g) + reused, vit.positions)

    def order(self, coarse: Coarse) -> Tensor:
        """The coarse patches of every image, int64 [B, Nc]: the first `refined` of them are refined."""
        score = coarse.attention
        if self.regions == "random":
            score = torch.rand(score.shape, generator=torch.Generator().manual_seed(0)).to(score.device)
        return score.topk(self.grid**2, 1, largest=self.regions != "lowest").indices

    def select(self, fine: Tensor, coarse: Coarse, order: Tensor) -> Tensor:
        """The mixed sequence [B, 1 + 4 K + Nc - K, d]: class token, refined patches, coarse ones that are left."""
        chosen, left = order[:, : self.refined], order[:, self.refined :]
        children = self.children_of[chosen].flatten(1)
        return torch.cat([fine[:, :1], _take(fine, 1 + children), _take(coarse.tokens, 1 + left)], 1)

    def cells(self, coarse: Coarse) -> Tensor:
        """int64 [B, Nf]: the token of the fine pass that covers each cell of the fine grid, from 1."""
        count, cells, k = len(coarse.attention), 4 * self.grid**2, self.refined
        tokens = torch.arange(1, 1 + cells, device=coarse.attention.device)
        if self.regions == "all":
            return tokens.expand(count, -1)
        left = tokens[4 * k : 4 * k + self.grid**2 - k].repeat_interleave(4)
        covering = torch.cat([tokens[: 4 * k], left]).expand(count, -1)
        return torch.empty_like(covering).scatter_(1, self.children_of[self.order(coarse)].flatten(1), covering)

    def fine(self, images: Tensor, coarse: Coarse, mix: Mix = identity) -> Tensor:
        """The second pass on the same images: encoded tokens [B, T, d]."""
        tokens = self.fine_sequence(images, coarse, mix)
        if self.regions != "all":
            tokens = self.select(tokens, coarse, self.order(coarse))
        return self.backbone.encode(tokens)

    def forward(self, images: Tensor) -> Tensor:
        """Both passes: [B, c, H, W] -> logits [B, classes]."""
        images = self.backbone.pad(images)
        return self.backbone.logits(self.fine(images, self.coarse(images)))


class CoarseOnly(nn.Module):
    """The coarse pass alone (eta = 0)."""

    def __init__(self, model: CoarseToFineViT) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """[B, c, H, W] -> logits [B, classes]."""
        return self.model.coarse(self.model.backbone.pad(images)).logits


class EarlyExit(nn.Module):
    """An image exits at its coarse prediction if its largest probability is at least `threshold` (eta)."""

    def __init__(self, model: CoarseToFineViT, threshold: float) -> None:
        super().__init__()
        if threshold < 0:
            raise ValueError(f"the threshold of an early exit must not be negative, but is {threshold}")
        self.model, self.threshold = model, threshold

    def forward(self, images: Tensor) -> Tensor:
        """[B, c, H, W] -> logits [B, classes]; the second pass sees only the images that are still undecided."""
        images = self.model.backbone.pad(images)
        coarse = self.model.coarse(images)
        undecided = self.undecided(coarse.logits)
        if len(undecided) == 0:
            return coarse.logits
        features = self.model.fine(images.index_select(0, undecided), coarse.rows(undecided))
        return coarse.logits.index_copy(0, undecided, self.model.backbone.logits(features))

    def undecided(self, logits: Tensor) -> Tensor:
        """Coarse logits [B, classes] -> the rows that go on, int64 [n]."""
        exits = logits.softmax(1).amax(1) >= self.threshold  # NaN is no reason to exit
        return (~exits).nonzero().flatten()

    @torch.no_grad()
    def exit_fraction(self, batches: Iterable[Tensor]) -> float:
        """The share e of the images in `batches` [B, c, H, W] that needs no second pass."""
        coarse, device = CoarseOnly(self.model).eval(), self.model.coarse_positions.device
        going_on = [(len(self.undecided(coarse(images.to(device)))), len(images)) for images in batches]
        undecided, every = map(sum, zip(*going_on, strict=True))
        return 1 - undecided / every

    def mean_macs(self, batches: Iterable[Tensor]) -> float:
        """F(e) = F_c + (1 - e) F_f: an image that goes on pays both passes."""
        others = iter(batches)
        first = next(others)
        coarse, both = (account(network, first.shape[1:]).macs for network in (CoarseOnly(self.model), self.model))
        return coarse + (1 - self.exit_fraction(chain([first], others))) * (both - coarse)


def _take(tokens: Tensor, chosen: Tensor) -> Tensor:
    """[B, T, d], int64 [B, n] -> [B, n, d]."""
    return tokens.gather(1, chosen[:, :, None].expand(-1, -1, tokens.shape[2]))


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """Normal of 0.02 for linear weights, class token and positions, zero biases; convolutions keep PyTorch's.

    The authors truncate it at ±2, which is 100 standard deviations.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    if isinstance(module, VisionTransformer):
        nn.init.normal_(module.class_token, std=0.02)
        nn.init.normal_(module.positions, std=0.02)


ARCHITECTURES = {"coarse_to_fine_vit": CoarseToFineViT, "vit": VisionTransformer}
