"""1xN pattern (arXiv 2105.14713): remove blocks of N consecutive output kernels that read one input channel."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from compressbench import accounting, models
from compressbench.config import Recipe
from compressbench.errors import UserError
from compressbench.method import Context, Deployment, Method, PublishedCount
from compressbench.models import Network
from compressbench.models.structure import AnyModule
from compressbench.pruning.blocks import (
    Rows,
    block_mask,
    block_statistics,
    check_network,
    prunable_layers,
    rearranged_block_mask,
    rearrangement,
    record_connected,
    removed_blocks,
    weights_of,
)
from compressbench.pruning.deployments import block_networks
from compressbench.pruning.masks import apply_masks, zero_removed
from compressbench.pruning.one_shot import record_untrained_quality
from compressbench.pruning.surgery import permute_filters
from compressbench.quantization.deployments import rounded_block_networks
from compressbench.quantization.rounded_blocks import RoundedConfig, check_rounding, round_finished

WARMUP = 5
PUBLISHED = {  # TVM pull request 8065, beside 17.37 ms of the dense network
    ("MobileNet-V2", "1x4, 50 %"): "15.03 ms of 17.37 on a Pixel 2 (TVM)",
    ("MobileNet-V2", "1x4, 90 %"): "8.67 ms of 17.37 on a Pixel 2 (TVM)",
}


class OneByN(Method):
    """Sort the filters, remove the weakest blocks of every layer in one shot, fine-tune with fixed masks."""

    class Config(RoundedConfig):
        """The pattern, what carries it, and where the authors' code differs from the paper."""

        n: int = Field(4, ge=1, description="output kernels per block")
        sparsity: float = Field(0.5, ge=0, le=1, description="fraction of the blocks of every prunable layer removed")
        rearrange: bool = Field(True, description="sort filters by l1 norm before blocks are formed")
        rows: Rows = Field("ranked", description="uniform: control with equally many blocks in every output group")
        prune_classifier: bool = Field(False, description="as the published ResNet-50 configuration does")
        straddle: bool = Field(False, description="blocks reach into the next input channel where n does not divide")
        as_published: bool = Field(False, description="rearrange shortcut convolutions and classifier too (masks only)")
        freeze_classifier_bias: bool | None = Field(None, description="default: as `as_published`")
        schedule: Literal["published", "recipe"] = Field("published", description="learning rate of the fine-tuning")

    config: Config

    def check(self, network: Network) -> None:
        config = self.config
        if config.rearrange:
            network.couplings()  # says what it lacks
        straddle = config.straddle and config.rows != "uniform"
        check_network(network, prunable_layers(network, config.prune_classifier), config.n, straddle)
        check_rounding(network, config)

    def compress(self, ctx: Context) -> Network:
        if self.config.bits:
            return round_finished(ctx, self.config.bits)
        model = ctx.dense()
        masks = self.masks(model)
        weights = weights_of(model, masks)
        aligned = [(weights[name], mask) for name, mask in masks.items() if mask.shape[0] % self.config.n == 0]
        for name, value in block_statistics(aligned, self.config.n).items():
            ctx.record(name, value)
        record_connected(ctx, model, masks)
        self.apply(model, masks)
        record_untrained_quality(ctx, model)
        return model

    @torch.no_grad()
    def masks(self, model: Network) -> dict[str, Tensor]:
        """Sort the filters of `model`, in place, so that blocks are consecutive; masks of the prunable layers.

        Training the permuted network is training the original one with masks scattered back to its filter order.
        """
        names = prunable_layers(model, self.config.prune_classifier)
        if self.config.rearrange:
            free = {coupling.producer for coupling in model.inner_couplings()}
            orders = {n: rearrangement(weight) for n, weight in weights_of(model, names).items() if n in free}
            permute_filters(model, orders)
        return {name: self._mask(name, weight) for name, weight in weights_of(model, names).items()}

    def _mask(self, name: str, weight: Tensor) -> Tensor:
        config = self.config
        choose = rearranged_block_mask if self._is_virtual(name) else block_mask
        return choose(weight, config.n, config.sparsity, config.rows, config.straddle, name)

    def _is_virtual(self, name: str) -> bool:
        """Whether the authors rearrange a layer whose outputs cannot move: its mask is scattered, not consecutive."""
        fixed = ".shortcut." in name or name.split(".")[0] == "classifier"
        return self.config.rearrange and self.config.as_published and fixed

    def apply(self, model: AnyModule, masks: dict[str, Tensor]) -> AnyModule:
        """Mask the layers in place, W <- M * W; consecutive blocks are declared storable as (N, 1) blocks."""
        n = self.config.n
        blocks = {name: mask for name, mask in masks.items() if mask.shape[0] % n == 0 and not self._is_virtual(name)}
        apply_masks(model, blocks, block=n)
        return apply_masks(model, {name: mask for name, mask in masks.items() if name not in blocks})

    def finetune(self, ctx: Context, model: Network) -> Network:
        recipe, frozen = ctx.recipes.finetune, self.config.freeze_classifier_bias
        if self.config.as_published if frozen is None else frozen:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(not (name.startswith("classifier") and name.endswith("bias")))
        trainable = [p for p in model.parameters() if p.requires_grad]
        recipe = published(recipe) if self.config.schedule == "published" else recipe
        ctx.fit(model, recipe, optimizers=[ctx.optimizer(recipe, trainable)])
        zero_removed(model)
        return model.requires_grad_(True)

    @classmethod
    def published_counts(cls) -> list[PublishedCount]:
        """MACs, weights and stored bytes of the published networks, dense and with 1x4 blocks."""
        return [count for name in PRUNABLE_NETWORKS for count in counts_of_network(name)]

    @classmethod
    def deployments(cls) -> list[Deployment]:
        rows = block_networks("ranked") + rounded_block_networks("ranked")
        return [replace(row, published=PUBLISHED.get((row.network.name, row.setting), "")) for row in rows]


def published(recipe: Recipe) -> Recipe:
    """The recipe with the authors' schedule: a cosine per epoch; in the first 5 epochs times a linear warm-up per step."""
    if recipe.epochs <= WARMUP:
        raise UserError(
            f"recipes.finetune.epochs: the authors' schedule warms up for {WARMUP} epochs, so {recipe.epochs} "
            "are too few; train longer or set schedule: recipe in methods/one_by_n/config.yaml."
        )
    schedule = {"schedule": "cosine_by_epoch", "warmup_epochs": WARMUP, "halve_every": None, "milestones": ()}
    return Recipe.model_validate(recipe.model_dump() | schedule)


# ---- published counts

PRUNABLE_NETWORKS = ("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "resnet50")
SPARSITIES = {"p50": 0.5, "p70": 0.7, "p90": 0.9}


class LayerShape(NamedTuple):
    """What the counts of a masked layer follow from."""

    weights: int
    rows: int
    kernel: int
    positions: int
    prunable: bool

    def kept(self, n: int, sparsity: float) -> int:
        """Weights in the blocks that stay."""
        per_block = n * self.kernel
        removed = removed_blocks(self.weights // per_block, sparsity) if self.prunable else 0
        return self.weights - removed * per_block

    def stored_bytes(self, n: int, sparsity: float) -> int:
        """float32 data and int32 indices and pointers of (n, 1) blocks (n = 1: CSR); dense layers have data only."""
        if not self.prunable:
            return 4 * self.weights
        kept = self.kept(n, sparsity)
        return 4 * (kept + kept // n + self.rows // n + 1)


def layer_shapes(network: nn.Module, classifier: bool = False) -> list[LayerShape]:
    """The convolutions and linear layers of an ImageNet network, on any device."""
    prunable = set(prunable_layers(network, classifier))
    positions = {row.name: row.positions for row in accounting.layer_table(network, (3, 224, 224))}
    return [
        LayerShape(w.weight.numel(), w.weight.shape[0], w.weight[0, 0].numel(), positions[name], name in prunable)
        for name, w in accounting.weight_layers(network)
    ]


def counts_of_network(name: str) -> Iterator[PublishedCount]:
    """The counts of one network; ResNet-50 also with its classifier pruned, as its published configuration does."""
    with torch.device("meta"):
        network = models.build(name)
    for suffix, classifier in {"": False, "_fc": True}.items() if name == "resnet50" else {"": False}.items():
        shapes = layer_shapes(network, classifier)
        yield PublishedCount(name, f"dense{suffix}", "prunable_weights", sum(s.weights for s in shapes if s.prunable))
        for label, sparsity in SPARSITIES.items():
            kept = [s.kept(4, sparsity) for s in shapes]
            macs = sum(k * s.positions for k, s in zip(kept, shapes, strict=True))
            yield PublishedCount(name, f"n4_{label}{suffix}", "macs", macs)
            yield PublishedCount(name, f"n4_{label}{suffix}", "kept_weights", sum(kept))
    yield PublishedCount(name, "dense", "macs", sum(s.weights * s.positions for s in shapes))
    yield PublishedCount(name, "dense", "weights", sum(s.weights for s in shapes))
    yield PublishedCount(name, "dense", "params", sum(p.numel() for p in network.parameters()))
    yield from stored_counts(name, layer_shapes(network))


def stored_counts(name: str, shapes: list[LayerShape]) -> Iterator[PublishedCount]:
    """Bytes of the weights alone: dense, in blocks, and as single weights in CSR (n = 1, pruned weight by weight)."""
    single = [s._replace(kernel=1) for s in shapes]
    yield PublishedCount(name, "dense", "weight_bytes", 4 * sum(s.weights for s in shapes))
    for setting, n, sparsity in (("n4_p50", 4, 0.5), ("n16_p50", 16, 0.5), ("n4_p90", 4, 0.9)):
        if all(s.rows % n == 0 for s in shapes if s.prunable):
            yield PublishedCount(name, setting, "weight_bytes", sum(s.stored_bytes(n, sparsity) for s in shapes))
    for label in ("p50", "p90"):
        yield PublishedCount(
            name, f"weight_{label}", "weight_bytes", sum(s.stored_bytes(1, SPARSITIES[label]) for s in single)
        )
