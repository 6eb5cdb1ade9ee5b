"""Counts of the published networks: they need no training. A network is named by its backbone and its coarse grid."""

from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import torch

from compressbench import accounting, models
from compressbench.accounting import account, flops
from compressbench.method import PublishedCount
from compressbench.models.published import PublishedNetwork
from compressbench.models.structure import network_of
from compressbench.models.vit import CoarseOnly, CoarseToFineViT

EXITS = [i / 10 for i in range(10, -1, -1)]
ALPHAS = (0.1, 0.3, 0.5, 0.7, 1.0)
HEADLINE = 0.3329  # of the images take the fine pass of LV-ViT-S 7x7 at its published operating point
GIGA = 1e9


@dataclass(frozen=True)
class Costs:
    """Both passes of one network for one image."""

    model: CoarseToFineViT
    shape: tuple[int, int, int]

    @cached_property
    def coarse(self) -> int:
        """F_c, in MACs."""
        return account(CoarseOnly(self.model), self.shape).macs

    @cached_property
    def fine(self) -> int:
        """F_f, in MACs."""
        return account(self.model, self.shape).macs - self.coarse

    @property
    def tokens(self) -> tuple[int, int]:
        """(T_c, T_f), class token included."""
        regions = self.model.grid**2
        refined = regions if self.model.regions == "all" else self.model.refined
        return 1 + regions, 1 + 4 * refined + (regions - refined)

    def mean(self, exit_fraction: float) -> float:
        """F(e) = F_c + (1 - e) F_f, in MACs."""
        return self.coarse + (1 - exit_fraction) * self.fine

    def gflops(self) -> tuple[float, float]:
        """(coarse pass, both passes) as the authors count: MACs, and five per normalised element."""
        networks = (CoarseOnly(self.model), self.model)
        coarse, both = (flops(network, self.shape, "with_norms") / GIGA for network in networks)
        return coarse, both


@dataclass(frozen=True)
class Published(PublishedNetwork):
    """A backbone at one image size."""

    def passes(self, alpha: float = 0.5, floor: bool = False, select: bool = True) -> Costs:
        """Both passes; `floor` refines one region less where alpha Nc is no whole number."""
        size = {"image_size": self.size}
        grid = self.size // 32
        share = int(alpha * grid**2) / grid**2 if floor else alpha
        with torch.device("meta"):
            built = models.build("coarse_to_fine_vit", backbone=dict(self.arguments) | size, alpha=share)
        model = network_of(built, CoarseToFineViT)
        model.regions = "top" if select else "all"
        return Costs(model, self.shape)

    def counts(self) -> list[PublishedCount]:
        dense = accounting.account(self.build(image_size=self.size), self.shape)
        ceil, floor, whole = self.passes(), self.passes(floor=True), self.passes(select=False)
        found: dict[tuple[str, str], float] = {
            ("dense", "macs"): dense.macs,
            ("dense", "params"): dense.params,
            ("alpha50", "params"): sum(p.numel() for p in ceil.model.parameters()),
            ("alpha50", "coarse_tokens"): ceil.tokens[0],
            ("alpha50", "coarse_macs"): ceil.coarse,
            ("alpha50", "coarse_gflops"): ceil.gflops()[0],
            ("alpha50", "break_even_fine_fraction"): (dense.macs - ceil.coarse) / ceil.fine,
        }
        for setting, costs in {"alpha50": ceil, "alpha50_floor": floor, "no_selection": whole}.items():
            found |= {
                (setting, "fine_tokens"): costs.tokens[1],
                (setting, "fine_macs"): costs.fine,
                (setting, "macs"): costs.mean(0),
                (setting, "gflops"): costs.gflops()[1],
            }
        found |= {(f"exit_{round(100 * e)}", "gmacs"): ceil.mean(e) / GIGA for e in EXITS}
        return [PublishedCount(self.name, setting, metric, value) for (setting, metric), value in found.items()]


LV_VIT_S = {
    "depth": 16, "mlp_ratio": 3, "qkv_bias": False, "norm_eps": 1e-5, "embedding": "convolutional", "branch_scale": 0.5,
    "token_head": True,
}  # fmt: skip
PUBLISHED = (
    Published("DeiT-S 7x7", "vit", {}, 224),
    Published("DeiT-S 9x9", "vit", {}, 288),
    Published("LV-ViT-S 7x7", "vit", LV_VIT_S, 224),
    Published("LV-ViT-S 9x9", "vit", LV_VIT_S, 288),
)


def recompute() -> list[PublishedCount]:
    """Every count of published.csv."""
    found = list(chain.from_iterable(network.counts() for network in PUBLISHED))
    deit, _, lv_vit, _ = PUBLISHED
    for alpha in ALPHAS:
        costs, setting = deit.passes(alpha), f"alpha{round(100 * alpha)}"
        found += [
            PublishedCount(deit.name, setting, "refined_regions", costs.model.refined),
            PublishedCount(deit.name, setting, "fine_gmacs", costs.fine / GIGA),
        ]
    dense = accounting.account(lv_vit.build(), lv_vit.shape).macs
    headless = accounting.account(lv_vit.build(token_head=False), lv_vit.shape).macs
    passes = lv_vit.passes()
    mean, (coarse, both) = passes.mean(1 - HEADLINE), passes.gflops()
    return [
        *found,
        PublishedCount(lv_vit.name, "dense", "macs_without_token_head", headless),
        PublishedCount(lv_vit.name, "alpha50@t63", "gmacs", mean / GIGA),
        PublishedCount(lv_vit.name, "alpha50@t63", "gflops", coarse + HEADLINE * (both - coarse)),
        PublishedCount(lv_vit.name, "alpha50@t63", "macs_removed", 100 * (1 - mean / dense)),
    ]
