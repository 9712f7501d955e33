"""How a drawn or warped face gets into a picture: colour match, sharpness, resolution, and the blending itself."""

from __future__ import annotations

import cv2
import numpy as np

from difffake.pseudofake.alter import match_detail, recompress, resample, unsharp
from difffake.pseudofake.bank import U8
from difffake.pseudofake.colour import TRANSFERS, jitter_colour, transfer_colour
from difffake.pseudofake.masks import GLOBAL_SHAPES, LOCAL_SHAPES, SWAP_SHAPES, Mask


def grain(image: U8, sigma: float, rng: np.random.Generator) -> U8:
    """Noise of ``sigma`` levels, half of it common to the three channels."""
    field = rng.standard_normal((*image.shape[:2], 4), dtype=np.float32)
    noise = sigma * (0.7 * field[..., :1] + 0.7 * field[..., 1:])
    return np.asarray(cv2.add(image, noise, dtype=cv2.CV_8U), np.uint8)


def finish(crop: U8, source: U8, mask: Mask, rng: np.random.Generator) -> U8:
    """What every generator's output goes through: colour match, sharpness, a little colour error, blending."""
    target = crop[mask.window]
    core = mask.alpha > 0.5 * mask.alpha.max()
    source = transfer_colour(source, target, core, TRANSFERS[int(rng.integers(len(TRANSFERS)))])
    if rng.random() < 0.3:
        source = jitter_colour(source, rng, strength=0.4)
    if rng.random() < 0.8:
        # In 39 of 53 live swaps the face is sharper than its surroundings: the median ratio lies above one.
        ratio, sigma = float(np.exp(rng.normal(0.25, 0.3))), float(rng.uniform(1.0, 2.5))
        source = match_detail(source, target, core, ratio, sigma_px=sigma, most=1.2 + sigma)
    if rng.random() < 0.15:
        source = recompress(source, int(rng.integers(40, 95)))
    if rng.random() < 0.1:
        source = grain(source, float(rng.uniform(1, 5)), rng)
    return blend(crop, source, mask, two_bands=bool(rng.random() < 0.2))[0]


def blend(crop: U8, source: U8, mask: Mask, *, two_bands: bool = False) -> tuple[U8, float]:
    """The blended crop, and the mean absolute change over the core of the mask, in levels.

    ``source (h, w, 3) uint8`` fills the mask's window. With ``two_bands`` coarse light follows the soft mask and detail
    a hard one (Burt & Adelson 1983, with two bands): no ghost of two faces in the seam.
    """
    fake = crop.copy()
    target = crop[mask.window]
    # 8-bit weights: cv2 blends them several times faster than float planes, and zero stays exactly zero.
    weight = np.asarray(np.round(mask.alpha * 256), np.int32)[..., None]
    step = source.astype(np.int32) - target
    if two_bands:
        coarse = cv2.blur(step.astype(np.float32), (9, 9)).astype(np.int32)
        hard = np.where(2 * weight > weight.max(), weight.max(), 0)
        # The hard edge lies within the soft mask, so nothing outside changes.
        mixed = target + ((coarse * weight + (step - coarse) * hard + 128) >> 8)
    else:
        mixed = target + ((step * weight + 128) >> 8)
    fake[mask.window] = np.clip(mixed, 0, 255).astype(np.uint8)
    core = mask.alpha > 0.5 * mask.alpha.max()
    change = float(np.abs(fake[mask.window][core].astype(np.int16) - target[core]).mean()) if core.any() else 0.0
    return fake, change


def swap_shapes(rng: np.random.Generator, *, foreign: bool) -> tuple[str, ...]:
    """Outlines of a swap's mask: one swap in six exchanges a part of the face only.

    What is ``foreign``, a donor's picture with his hair and background, is never pasted as a square.
    """
    if rng.random() < 1 / 6:
        return LOCAL_SHAPES
    return GLOBAL_SHAPES if foreign else SWAP_SHAPES


def strong(mask: Mask, rng: np.random.Generator) -> Mask:
    """Generators replace: ratios below one are the exception when the source is another face."""
    peak = float(mask.alpha.max())
    if 0 < peak < 1 and rng.random() < 0.8:
        return Mask(np.minimum(mask.alpha / peak, 1.0).astype(np.float32), mask.left, mask.top)
    return mask


def warp_filter(rng: np.random.Generator) -> int:
    """Linear or cubic, by chance."""
    return int((cv2.INTER_LINEAR, cv2.INTER_CUBIC)[int(rng.integers(2))])


def resolution(source: U8, rng: np.random.Generator, probability: float = 0.3) -> U8:
    """Now and then as from fewer pixels, or through JPEG."""
    if rng.random() < probability:
        source = resample(source, float(rng.uniform(0.3, 0.9)), rng)
    if rng.random() < 0.15:
        source = recompress(source, int(rng.integers(30, 95)))
    return source


def sharpness(source: U8, rng: np.random.Generator) -> U8:
    """Sharpened, softened, or as it is."""
    kind = rng.random()
    if kind < 0.55:
        return unsharp(source, float(rng.uniform(0.7, 2.5)), float(rng.uniform(0.3, 1.5)))
    if kind < 0.75:
        return unsharp(source, float(rng.uniform(0.5, 1.8)), -float(rng.uniform(0.5, 1.0)))
    return source
