"""Super-resolution networks on RGB 0..255.

EDSR (Lim et al. 2017), SRResNet (Ledig et al. 2017), RDN (Zhang et al. 2018).
The modules `q...` are identities that mark where the body's activations may be quantized.
"""

import torch
from torch import Tensor, nn

from compressbench.models.structure import SuperResolver

RGB_MEAN = (0.4488, 0.4371, 0.4040)


def _conv3(inputs: int, outputs: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


def _upsampling_factors(scale: int) -> tuple[int, ...]:
    factors = {2: (2,), 3: (3,), 4: (2, 2)}
    if scale not in factors:
        raise ValueError(f"scale must be 2, 3 or 4, not {scale}")
    return factors[scale]


class MeanShift(nn.Conv2d):
    """Adds `sign` times the mean colour of DIV2K; a frozen 1x1 convolution, as in the papers' counts."""

    def __init__(self, sign: int) -> None:
        super().__init__(3, 3, 1)
        with torch.no_grad():
            self.weight.copy_(torch.eye(3)[:, :, None, None])
            self.get_parameter("bias").copy_(torch.tensor(RGB_MEAN) * 255 * sign)
        self.requires_grad_(False)


class EDSRBlock(nn.Module):
    """y = q3(conv2(q2(relu(conv1(x))))) + q1(x): conv1 reads x itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.q1 = nn.Identity()
        self.conv1 = _conv3(channels, channels)
        self.relu = nn.ReLU()
        self.q2 = nn.Identity()
        self.conv2 = _conv3(channels, channels)
        self.q3 = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, h, w] -> same shape."""
        return self.q3(self.conv2(self.q2(self.relu(self.conv1(x))))) + self.q1(x)


class EDSR(SuperResolver):
    """Head, residual blocks and a convolution with a global skip, pixel shuffle, last convolution."""

    def __init__(self, blocks: int = 16, channels: int = 64, scale: int = 4, mean_shift: bool = True) -> None:
        super().__init__()
        self.upscaling = scale
        self.subtract_mean = MeanShift(-1) if mean_shift else nn.Identity()
        self.head = _conv3(3, channels)
        self.blocks = nn.Sequential(*(EDSRBlock(channels) for _ in range(blocks)))
        self.body_conv = _conv3(channels, channels)
        self.upsampler = nn.Sequential()
        for factor in _upsampling_factors(scale):
            self.upsampler.append(_conv3(channels, channels * factor**2))
            self.upsampler.append(nn.PixelShuffle(factor))
        self.tail = _conv3(channels, 3)
        self.add_mean = MeanShift(1) if mean_shift else nn.Identity()

    def features(self, low: Tensor) -> Tensor:
        """RGB 0..255 [N, 3, h, w] -> [N, channels, h, w] after the global skip."""
        head = self.head(self.subtract_mean(low))
        return self.body_conv(self.blocks(head)) + head

    def reconstruct(self, features: Tensor) -> Tensor:
        """[N, channels, h, w] -> RGB 0..255 [N, 3, upscaling h, upscaling w]."""
        return self.add_mean(self.tail(self.upsampler(features)))


class SRResNetBlock(nn.Module):
    """x + BN(conv2(q2(PReLU(BN(conv1(q1(x)))))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.q1 = nn.Identity()
        self.conv1 = _conv3(channels, channels, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act = nn.PReLU()
        self.q2 = nn.Identity()
        self.conv2 = _conv3(channels, channels, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, h, w] -> same shape."""
        out = self.act(self.bn1(self.conv1(self.q1(x))))
        return x + self.bn2(self.conv2(self.q2(out)))


class SRResNet(SuperResolver):
    """9x9 head, residual blocks with batch normalisation, pixel shuffles with PReLU, 9x9 tail; no biases."""

    def __init__(self, blocks: int = 16, channels: int = 64, scale: int = 4) -> None:
        super().__init__()
        self.upscaling = scale
        self.head = nn.Conv2d(3, channels, 9, padding=4, bias=False)
        self.head_act = nn.PReLU()
        self.blocks = nn.Sequential(*(SRResNetBlock(channels) for _ in range(blocks)))
        self.body_conv = _conv3(channels, channels, bias=False)
        self.body_bn = nn.BatchNorm2d(channels)
        self.upsampler = nn.Sequential()
        for factor in _upsampling_factors(scale):
            self.upsampler.append(_conv3(channels, channels * factor**2, bias=False))
            self.upsampler.append(nn.PixelShuffle(factor))
            self.upsampler.append(nn.PReLU())
        self.tail = nn.Conv2d(channels, 3, 9, padding=4, bias=False)

    def features(self, low: Tensor) -> Tensor:
        """RGB 0..255 [N, 3, h, w] -> [N, channels, h, w] after the global skip."""
        head = self.head_act(self.head(low))
        return self.body_bn(self.body_conv(self.blocks(head))) + head

    def reconstruct(self, features: Tensor) -> Tensor:
        """[N, channels, h, w] -> RGB 0..255 [N, 3, upscaling h, upscaling w]."""
        return self.tail(self.upsampler(features))


class DenseConv(nn.Module):
    """concat(x, relu(conv(x))); the concatenated tensor is the (quantized) input itself."""

    def __init__(self, inputs: int, growth: int, quantized_input: bool) -> None:
        super().__init__()
        self.q = nn.Identity() if quantized_input else None
        self.conv = _conv3(inputs, growth)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, h, w] -> [N, inputs + growth, h, w]."""
        x = x if self.q is None else self.q(x)
        return torch.cat((x, self.relu(self.conv(x))), dim=1)


class RDNBlock(nn.Module):
    """y = fuse(q_out(dense convolutions of q_in(x))) + q_in(x)."""

    def __init__(self, channels: int, growth: int, convs: int) -> None:
        super().__init__()
        self.q_in = nn.Identity()
        self.convs = nn.Sequential(*(DenseConv(channels + c * growth, growth, c > 0) for c in range(convs)))
        self.q_out = nn.Identity()
        self.fuse = nn.Conv2d(channels + convs * growth, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, h, w] -> same shape."""
        x = self.q_in(x)
        return self.fuse(self.q_out(self.convs(x))) + x


class RDN(SuperResolver):
    """Residual dense network, configuration B by default: D = 16 blocks of C = 8 convolutions, growth 64."""

    def __init__(self, blocks: int = 16, convs: int = 8, channels: int = 64, growth: int = 64, scale: int = 4) -> None:
        super().__init__()
        self.upscaling = scale
        self.shallow1 = _conv3(3, channels)
        self.shallow2 = _conv3(channels, channels)
        self.blocks = nn.ModuleList(RDNBlock(channels, growth, convs) for _ in range(blocks))
        self.q_global = nn.Identity()
        self.global_fuse = nn.Conv2d(blocks * channels, channels, 1)
        self.global_conv = _conv3(channels, channels)
        self.upsampler = nn.Sequential()
        for factor in _upsampling_factors(scale):
            self.upsampler.append(_conv3(channels, channels * factor**2))
            self.upsampler.append(nn.PixelShuffle(factor))
        self.tail = _conv3(channels, 3)

    def features(self, low: Tensor) -> Tensor:
        """RGB 0..255 [N, 3, h, w] -> [N, channels, h, w] after the global skip."""
        shallow = self.shallow1(low)
        outputs = self._block_outputs(self.shallow2(shallow))
        return self.global_conv(self.global_fuse(self.q_global(torch.cat(outputs, dim=1)))) + shallow

    def _block_outputs(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return outputs

    def reconstruct(self, features: Tensor) -> Tensor:
        """[N, channels, h, w] -> RGB 0..255 [N, 3, upscaling h, upscaling w]."""
        return self.tail(self.upsampler(features))


ARCHITECTURES = {"edsr": EDSR, "rdn": RDN, "srresnet": SRResNet}
