"""The families of pseudo-deepfakes, by name, each with its share of the training fakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from difffake.errors import DataError
from difffake.pseudofake.alter import (
    match_detail,
    recompress,
    resample,
    small_affine,
    unsharp,
    warp_window,
)
from difffake.pseudofake.bank import U8, FaceBank
from difffake.pseudofake.colour import TRANSFERS, jitter_colour, transfer_colour
from difffake.pseudofake.decoder import decoder_of, patch_to_crop, take_patch
from difffake.pseudofake.masks import (
    GLOBAL_SHAPES,
    LOCAL_SHAPES,
    MOUTH_SHAPES,
    Mask,
    draw_mask,
    fit_canonical,
)

# A fake that nobody could tell from its source teaches nothing: redrawn below this change, at most so often.
_LEAST_CHANGE = 2.0  # mean absolute difference over the mask's core, in levels
_TRIES = 4


@dataclass(frozen=True, slots=True)
class Family:
    """What the family does, its default share, and how a sample is made: ``make(bank, index, rng)``."""

    about: str
    share: float
    make: Callable[[FaceBank, int, np.random.Generator], U8]


def make_fake(bank: FaceBank, index: int, family: str, rng: np.random.Generator) -> U8:
    """A pseudo-deepfake of face ``index``, ``(S, S, 3) uint8``.

    Its real counterpart is ``bank.crops[index]``: outside a soft mask on the face the two are identical, bit by
    bit, so that nothing but the face can tell them apart. Raises DataError for an unknown family or index, and
    where the bank cannot serve the family (a swap needs two people).
    """
    if family not in FAMILIES:
        raise DataError(f"no family of pseudo-fakes {family!r}", hint=f"Choose one of: {', '.join(FAMILIES)}.")
    if not 0 <= index < len(bank):
        raise DataError(f"no face {index} in a bank of {len(bank)}", hint="Give an index below len(bank).")
    return FAMILIES[family].make(bank, index, rng)


def draw_family(rng: np.random.Generator, shares: Mapping[str, float] | None = None) -> str:
    """One family's name, drawn by ``shares`` (any positive weights; default: those of `FAMILIES`).

    Raises DataError for unknown names, and for shares that are negative or all zero.
    """
    weights = {name: family.share for name, family in FAMILIES.items()} if shares is None else dict(shares)
    unknown = sorted(set(weights) - set(FAMILIES))
    values = np.array(list(weights.values()), np.float64)
    if unknown or values.size == 0 or not np.isfinite(values).all() or (values < 0).any() or values.sum() == 0:
        raise DataError(
            f"these are no shares of families: {weights}",
            hint=f"Give non-negative weights, one above zero, for some of: {', '.join(FAMILIES)}.",
        )
    return list(weights)[int(rng.choice(values.size, p=values / values.sum()))]


def _self_blend(bank: FaceBank, index: int, rng: np.random.Generator, shapes: tuple[str, ...]) -> U8:
    """The face blended with an altered copy of itself (Shiohara & Yamasaki 2022, section 3)."""
    crop, landmarks = bank.crop(index), bank.landmarks[index]
    eye_px = float(np.linalg.norm(landmarks[1] - landmarks[0]))
    fake = crop
    for attempt in range(_TRIES):
        mask = draw_mask(landmarks, bank.side_px, rng, shapes)
        strength = 1.0 + 0.5 * attempt
        around = small_affine(landmarks.mean(axis=0), 2.2 * eye_px, rng)
        source = warp_window(crop, around, mask, interpolation=_warp_filter(rng))
        if rng.random() < 0.85:
            source = jitter_colour(source, rng, strength=strength * rng.uniform(0.3, 1.0))
        source = _resolution(source, rng)
        source = _sharpness(source, rng)
        fake, change = _blend(crop, source, mask)
        if change >= _LEAST_CHANGE:
            break
    return fake


def _self_blend_global(bank: FaceBank, index: int, rng: np.random.Generator) -> U8:
    return _self_blend(bank, index, rng, GLOBAL_SHAPES)


def _self_blend_local(bank: FaceBank, index: int, rng: np.random.Generator) -> U8:
    return _self_blend(bank, index, rng, LOCAL_SHAPES)


def _cross_swap(bank: FaceBank, index: int, rng: np.random.Generator) -> U8:
    """Another person's face, warped onto this one's landmarks (Face X-ray, Li et al. 2020, section 3.2)."""
    crop, landmarks = bank.crop(index), bank.landmarks[index]
    donor = bank.donor(index, rng, candidates=int(rng.integers(50, 200)))
    theirs, ours = fit_canonical(bank.landmarks[donor]), fit_canonical(landmarks)
    linear = ours[:, :2] @ np.linalg.inv(theirs[:, :2])
    to_crop = np.hstack([linear, (ours[:, 2] - linear @ theirs[:, 2])[:, None]])
    mask = _strong(draw_mask(landmarks, bank.side_px, rng, GLOBAL_SHAPES), rng)
    source = warp_window(bank.crop(donor), to_crop, mask, interpolation=_warp_filter(rng))
    source = _resolution(source, rng, probability=0.5)
    return _finish(crop, source, mask, rng)


def _decoded(bank: FaceBank, index: int, rng: np.random.Generator, shapes: tuple[str, ...], mix: float) -> U8:
    """The face through the low-rank decoder, mixed with a donor's with probability ``mix``."""
    crop, landmarks = bank.crop(index), bank.landmarks[index]
    decoder = decoder_of(bank)
    most = decoder.basis.shape[0]
    components = int(rng.integers(min(40, most), most + 1))
    coefficients = decoder.encode(take_patch(crop, landmarks), components)
    if rng.random() < mix and bool((bank.people != bank.people[index]).any()):
        donor = bank.donor(index, rng)
        other = decoder.encode(take_patch(bank.crop(donor), bank.landmarks[donor]), components)
        coefficients += rng.uniform(0.3, 1.0) * (other - coefficients)
    wobble = rng.standard_normal(components, dtype=np.float32) * decoder.scale[:components]
    coefficients += np.float32(rng.uniform(0, 0.15)) * wobble
    mask = _strong(draw_mask(landmarks, bank.side_px, rng, shapes), rng)
    source = warp_window(decoder.decode(coefficients), patch_to_crop(landmarks), mask, interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.6:  # a decoder with a skip connection, or a restoration step, brings detail back
        target = crop[mask.window]
        sigma, amount = float(rng.uniform(0.8, 2.5)), float(rng.uniform(0.2, 0.9))
        detail = cv2.subtract(target, cv2.GaussianBlur(target, (0, 0), sigma), dtype=cv2.CV_16S)
        source = cv2.addWeighted(source, 1.0, detail, amount, 0, dtype=cv2.CV_8U).astype(np.uint8, copy=False)
    return _finish(crop, source, mask, rng)


def _decoder(bank: FaceBank, index: int, rng: np.random.Generator) -> U8:
    return _decoded(bank, index, rng, GLOBAL_SHAPES, 0.65)


def _mouth_resynth(bank: FaceBank, index: int, rng: np.random.Generator) -> U8:
    return _decoded(bank, index, rng, MOUTH_SHAPES, 0.85)


FAMILIES: dict[str, Family] = {
    "self_blend_global": Family(
        "the face blended with an altered copy of itself, whole-face masks", 0.15, _self_blend_global
    ),
    "self_blend_local": Family(
        "the same with local masks: eyes, nose, mouth, jaw, lower face", 0.15, _self_blend_local
    ),
    "cross_swap": Family("another person's face, nearest by landmarks, warped and colour matched", 0.35, _cross_swap),
    "decoder": Family("the face as a low-rank decoder draws it, often mixed with a donor", 0.30, _decoder),
    "mouth_resynth": Family("mouth and lower face redrawn by the low-rank decoder", 0.05, _mouth_resynth),
}


def _finish(crop: U8, source: U8, mask: Mask, rng: np.random.Generator) -> U8:
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
    return _blend(crop, source, mask)[0]


def _blend(crop: U8, source: U8, mask: Mask) -> tuple[U8, float]:
    """The blended crop, and the mean absolute change over the core of the mask, in levels."""
    fake = crop.copy()
    target = crop[mask.window]
    # 8-bit weights: cv2 blends them several times faster than float planes, and zero stays exactly zero.
    weight = np.asarray(np.round(mask.alpha * 256), np.int16)[..., None]
    step = source.astype(np.int16) - target
    mixed = target + ((step.astype(np.int32) * weight + 128) >> 8)
    fake[mask.window] = mixed.astype(np.uint8)
    core = mask.alpha > 0.5 * mask.alpha.max()
    change = float(np.abs(fake[mask.window][core].astype(np.int16) - target[core]).mean()) if core.any() else 0.0
    return fake, change


def _strong(mask: Mask, rng: np.random.Generator) -> Mask:
    """Generators replace: ratios below one are the exception when the source is another face."""
    peak = float(mask.alpha.max())
    if 0 < peak < 1 and rng.random() < 0.8:
        return Mask(np.minimum(mask.alpha / peak, 1.0).astype(np.float32), mask.left, mask.top)
    return mask


def _warp_filter(rng: np.random.Generator) -> int:
    return int((cv2.INTER_LINEAR, cv2.INTER_CUBIC)[int(rng.integers(2))])


def _resolution(source: U8, rng: np.random.Generator, probability: float = 0.3) -> U8:
    if rng.random() < probability:
        source = resample(source, float(rng.uniform(0.3, 0.9)), rng)
    if rng.random() < 0.15:
        source = recompress(source, int(rng.integers(30, 95)))
    return source


def _sharpness(source: U8, rng: np.random.Generator) -> U8:
    kind = rng.random()
    if kind < 0.55:
        return unsharp(source, float(rng.uniform(0.7, 2.5)), float(rng.uniform(0.3, 1.5)))
    if kind < 0.75:
        return unsharp(source, float(rng.uniform(0.5, 1.8)), -float(rng.uniform(0.5, 1.0)))
    return source
