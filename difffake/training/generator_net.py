"""Small face generators as networks: a swapper with a narrow waist, a redrawer with a wide one, and their critic.

All work on RGB patches of 128 px in canonical coordinates (`difffake.pseudofake.generator.take_face`). The layout is
that of live swap tools: a shared encoder, a decoder told whose face to draw, sub-pixel upsampling.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from difffake.pseudofake.generator import FACE_PX

CODE = 96
_SLOPE = 0.1


def _down(inside: int, outside: int) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, 4, stride=2, padding=1)


class _Told(nn.Module):
    """A convolution whose channels are scaled and shifted by a code (FiLM, Perez et al. 2018), then activated."""

    def __init__(self, inside: int, outside: int, code: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, 3, padding=1)
        self.told = nn.Linear(code, 2 * outside)
        nn.init.zeros_(self.told.weight)
        nn.init.zeros_(self.told.bias)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        scale, shift = self.told(code)[:, :, None, None].chunk(2, dim=1)
        return functional.leaky_relu(self.conv(x) * (1 + scale) + shift, _SLOPE)


class Encoder(nn.Module):
    """Patches ``(B, 3, 128, 128)`` on -1 to 1 to what is seen, ``(B, waist, 8, 8)``."""

    def __init__(self, waist: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_down(3, 32), _down(32, 64), _down(64, 128), _down(128, 128)])
        self.waist = nn.Conv2d(128, waist, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), _SLOPE)
        seen: Tensor = self.waist(x)
        return seen


class WhoseFace(nn.Module):
    """Patches ``(B, 3, 128, 128)`` on -1 to 1 to a code of the person, ``(B, 96)``, of unit variance."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_down(3, 32), _down(32, 64), _down(64, 96), _down(96, 128)])
        self.out = nn.Linear(128, CODE)
        self.norm = nn.LayerNorm(CODE, elementwise_affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.avg_pool2d(x, 2)
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), _SLOPE)
        code: Tensor = self.norm(self.out(x.mean(dim=(2, 3))))
        return code


class Swapper(nn.Module):
    """Draws the expression and light of one face with the features of another.

    The waist of 24 numbers at 8 x 8 places holds layout, not likeness; that comes as a code from another picture of
    the person, which the decoder is told at every scale.
    """

    def __init__(self, waist: int = 24) -> None:
        super().__init__()
        self.encoder = Encoder(waist)
        self.whose = WhoseFace()
        self.start = _Told(waist, 128, CODE)
        self.up = nn.ModuleList([_Told(128, 4 * 64, CODE), _Told(64, 4 * 48, CODE), _Told(48, 4 * 32, CODE)])
        self.fine = _Told(32, 32, CODE)
        self.out = nn.Conv2d(32, 4 * 3, 3, padding=1)

    def draw(self, seen: Tensor, code: Tensor) -> Tensor:
        """Patches ``(B, 3, 128, 128)`` on -1 to 1."""
        x = self.start(seen, code)
        for layer in self.up:
            x = functional.pixel_shuffle(layer(x, code), 2)
        x = x + self.fine(x, code)
        return functional.pixel_shuffle(self.out(x), 2)

    def drawn_from(self, seen: Tensor, other: Tensor) -> Tensor:
        """``seen (B, 3, 128, 128)`` with the features of ``other`` alone, as in training."""
        return self.draw(self.encoder(seen), self.whose(other))

    def forward(self, target: Tensor, donor: Tensor, mix: Tensor) -> Tensor:
        """``target`` with the features of ``donor``, both ``(B, 3, 128, 128)``; ``mix (B,)``: how much of them."""
        share = mix[:, None]
        code = self.whose(target) * (1 - share) + self.whose(donor) * share
        return self.draw(self.encoder(target), code)


class Redrawer(nn.Module):
    """Draws a face again, through 12 numbers at 32 x 32 places: the same person, in a network's texture."""

    def __init__(self, waist: int = 12) -> None:
        super().__init__()
        self.encode = nn.ModuleList([_down(3, 24), _down(24, 48)])
        self.waist = nn.Conv2d(48, waist, 1)
        self.decode = nn.ModuleList([nn.Conv2d(waist, 64, 3, padding=1), nn.Conv2d(64, 48, 3, padding=1)])
        self.finer = nn.Conv2d(48, 24, 3, padding=1)
        self.finest = nn.Conv2d(24, 12, 3, padding=1)
        self.out = nn.Conv2d(12, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.encode:
            x = functional.leaky_relu(layer(x), _SLOPE)
        # Bounded, so that no texture can hide in large numbers.
        x = torch.tanh(self.waist(x))
        for layer in self.decode:
            x = functional.leaky_relu(layer(x), _SLOPE)
        x = functional.leaky_relu(self.finer(functional.interpolate(x, scale_factor=2.0, mode="nearest")), _SLOPE)
        x = functional.leaky_relu(self.finest(functional.interpolate(x, scale_factor=2.0, mode="bilinear")), _SLOPE)
        drawn: Tensor = self.out(x)
        return drawn


class Critic(nn.Module):
    """How genuine each part of ``(B, 3, 128, 128)`` looks, ``(B, 1, 16, 16)``: it puts texture into drawings."""

    def __init__(self) -> None:
        super().__init__()
        wrap = nn.utils.parametrizations.spectral_norm
        self.layers = nn.ModuleList([wrap(_down(3, 32)), wrap(_down(32, 64)), wrap(_down(64, 96))])
        self.out = wrap(nn.Conv2d(96, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), 0.2)
        judged: Tensor = self.out(x)
        return judged


class SwapperOfPixels(nn.Module):
    """`Swapper` on ``target, donor (B, 128, 128, 3) uint8`` and ``mix (B,) float32``; ``(B, 128, 128, 3) uint8``."""

    def __init__(self, swapper: Swapper) -> None:
        super().__init__()
        self.swapper = swapper

    def forward(self, target: Tensor, donor: Tensor, mix: Tensor) -> Tensor:
        return to_pixels(self.swapper(from_pixels(target), from_pixels(donor), mix))


class RedrawerOfPixels(nn.Module):
    """`Redrawer` on uint8, ``(B, 128, 128, 3)`` in and out."""

    def __init__(self, redrawer: Redrawer) -> None:
        super().__init__()
        self.redrawer = redrawer

    def forward(self, target: Tensor) -> Tensor:
        return to_pixels(self.redrawer(from_pixels(target)))


def from_pixels(faces: Tensor) -> Tensor:
    """``(B, 128, 128, 3) uint8`` as ``(B, 3, 128, 128) float32`` on -1 to 1."""
    return faces.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(drawn: Tensor) -> Tensor:
    """The way back, clipped."""
    return ((drawn + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def drawing_loss(drawn: Tensor, wanted: Tensor) -> Tensor:
    """L1 and structural dissimilarity (Wang et al. 2004, windows of 7 px) of patches on -1 to 1; a scalar."""
    drawn, wanted = drawn.float(), wanted.float()
    error = (drawn - wanted).abs().mean()

    def local(x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, 7, stride=2)

    a, b = (x.mean(dim=1, keepdim=True) for x in (drawn, wanted))
    mean_a, mean_b = local(a), local(b)
    var_a, var_b = local(a * a) - mean_a**2, local(b * b) - mean_b**2
    both = local(a * b) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + 4e-4) * (2 * both + 3.6e-3)
    likeness = likeness / ((mean_a**2 + mean_b**2 + 4e-4) * (var_a + var_b + 3.6e-3))
    return error + 0.35 * (1 - likeness).mean()


assert FACE_PX == 128  # noqa: S101  the shapes above say so
