"""Counts that need no training: the size of the weights of mixed networks. Without batch norms; MB are 2^20 bytes, KB 2^10."""

from dataclasses import dataclass

from compressbench import accounting
from compressbench.method import PublishedCount
from compressbench.models.published import PublishedNetwork
from methods.df_mpc.layout import mixed_pairs

HIGH = 6
LOWS = (2, 3)
KILOBYTE = 2**10
MEGABYTE = 2**20


@dataclass(frozen=True)
class Published(PublishedNetwork):
    """A network of the kinds that the paper compresses."""

    def counts(self) -> list[PublishedCount]:
        """Dense counts, the share of the low layers' weights, and memory and mean bits at 2/6 and 3/6 bits."""
        network = self.build()
        counts = accounting.account(network, self.shape)
        low = sum(network.get_parameter(f"{pair.layer}.weight").numel() for pair in mixed_pairs(network))
        dense = {
            "weights": counts.weights,
            "macs": counts.macs,
            "low_share": 100 * low / counts.weights,
            "weight_mb": counts.weights * 4 / MEGABYTE,
        }
        found = [PublishedCount(self.name, "dense", metric, value) for metric, value in dense.items()]
        for bits in LOWS:
            total = low * bits + (counts.weights - low) * HIGH
            found.append(PublishedCount(self.name, f"w{bits}_{HIGH}", "mean_bits", total / counts.weights))
            found.append(PublishedCount(self.name, f"w{bits}_{HIGH}", "weight_mb", total / 8 / MEGABYTE))
            found.append(PublishedCount(self.name, f"w{bits}_{HIGH}", "weight_kb", total / 8 / KILOBYTE))
        return found


PUBLISHED = (
    Published("ResNet-18", "resnet18", {}, 224),
    Published("ResNet-34", "resnet34", {}, 224),
    Published("ResNet-50", "resnet50", {}, 224),
    Published("ResNet-20", "resnet_cifar", {"blocks": (3, 3, 3)}, 32),
    Published("ResNet-56", "resnet_cifar", {"blocks": (9, 9, 9)}, 32),
)


def recompute() -> list[PublishedCount]:
    """Every count of published.csv."""
    return [count for network in PUBLISHED for count in network.counts()]
