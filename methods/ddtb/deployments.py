"""Quantized super-resolution networks of the paper, with and without gates; their bounds start on noise."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from compressbench.method import Deployment
from compressbench.method.untrained import Untrained
from compressbench.models import Network
from compressbench.models.published import NETWORKS
from compressbench.quantization.deployments import INT8_NOTE, INTEGER
from compressbench.quantization.super_resolution import first_forward, quantization_points

if TYPE_CHECKING:
    from methods.ddtb.method import DDTB

SIDE = 24  # of the noise on which bounds start
GATED_NOTE = "a gate moves the range of its activations for every image, which int8 cannot follow: simulated in fp32"


@dataclass(frozen=True)
class Bounded:
    """The network with the method's quantizers, a share of them gated."""

    method: "type[DDTB]"
    gated: bool

    def __call__(self, model: Network) -> nn.Module:
        from methods.ddtb.method import PER_NETWORK, Ranges, select_dynamic, set_gating

        noise = 255 * torch.rand(2, 3, SIDE, SIDE)
        ranges = Ranges(model, quantization_points(model))
        with torch.no_grad():
            model(noise)
        intensity = ranges.finish()
        share = PER_NETWORK[model.spec.architecture]["dynamic_ratio"] if self.gated else 0.0
        gates = {name: ranges.channels[name] for name in select_dynamic(intensity, share)}
        method = self.method(self.method.Config.model_validate({"bits": 4, "gates": self.gated}))
        quantized = method.quantize(Untrained(model), model, gates)
        first_forward(quantized, noise, train=True)
        set_gating(quantized, self.gated)
        return quantized


def deployments(method: "type[DDTB]") -> list[Deployment]:
    """Every network at 4 bits, with and without gates."""
    return [
        Deployment(
            NETWORKS[name],
            f"4/4 bits, {words}",
            Bounded(method, gated),
            ("torch_eager", "onnxruntime") if gated else INTEGER,
            representative=(name, gated) == ("EDSR x4", False),
            note=GATED_NOTE if gated else INT8_NOTE,
        )
        for name in ("EDSR x4", "RDN x4", "SRResNet x4")
        for words, gated in (("without gates", False), ("gated", True))
    ]
