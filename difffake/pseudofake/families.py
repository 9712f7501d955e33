"""The families of pseudo-deepfakes, by name, each with its share of the training fakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from difffake.errors import DataError
from difffake.pseudofake import generated, paste
from difffake.pseudofake.alter import small_affine, warp_window
from difffake.pseudofake.bank import U8, FaceBank
from difffake.pseudofake.capture import capture
from difffake.pseudofake.colour import jitter_colour
from difffake.pseudofake.decoder import decoder_of, patch_to_crop, take_patch
from difffake.pseudofake.masks import (
    GLOBAL_SHAPES,
    LOCAL_SHAPES,
    MOUTH_SHAPES,
    draw_mask,
    fit_canonical,
)

# A fake that nobody could tell from its source teaches nothing: redrawn below this change, at most so often.
_LEAST_CHANGE = 2.0  # mean absolute difference over the mask's core, in levels
_TRIES = 4


@dataclass(frozen=True, slots=True)
class Family:
    """What the family does, its default share, and how a sample is made: ``make(bank, index, crop, rng)``.

    ``crop`` is the picture of face ``index`` that is altered: the bank's own, or what a camera made of it. ``drawn``:
    made with a learned generator, so only for banks that have one.
    """

    about: str
    share: float
    make: Callable[[FaceBank, int, U8, np.random.Generator], U8]
    drawn: bool = False


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
    return FAMILIES[family].make(bank, index, bank.crop(index), rng)


def make_pair(
    bank: FaceBank, index: int, family: str, rng: np.random.Generator, *, captured: float = 0.5
) -> tuple[U8, U8]:
    """Face ``index`` as a camera delivers it, and a fake made from that picture; each ``(S, S, 3) uint8``.

    With probability ``captured`` the crop goes through `capture` first, as a live swap gets its picture from a camera
    and its coder while donor and generator are clean. Both sides of the pair share it: outside the mask they are
    equal bit by bit. Raises what `make_fake` raises.
    """
    if family not in FAMILIES or not 0 <= index < len(bank):
        make_fake(bank, index, family, rng)  # which says what is wrong
    crop = bank.crop(index)
    if rng.random() < captured:
        crop = capture(crop, rng)
    return crop, FAMILIES[family].make(bank, index, crop, rng)


def shares_of(bank: FaceBank) -> dict[str, float]:
    """The default shares of the families that ``bank`` can serve: those that draw need its generator."""
    return {name: f.share for name, f in FAMILIES.items() if bank.generator is not None or not f.drawn}


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


def _self_blend(bank: FaceBank, index: int, crop: U8, rng: np.random.Generator, shapes: tuple[str, ...]) -> U8:
    """The face blended with an altered copy of itself (Shiohara & Yamasaki 2022, section 3)."""
    landmarks = bank.landmarks[index]
    eye_px = float(np.linalg.norm(landmarks[1] - landmarks[0]))
    fake = crop
    for attempt in range(_TRIES):
        mask = draw_mask(landmarks, bank.side_px, rng, shapes)
        strength = 1.0 + 0.5 * attempt
        around = small_affine(landmarks.mean(axis=0), 2.2 * eye_px, rng)
        source = warp_window(crop, around, mask, interpolation=paste.warp_filter(rng))
        if rng.random() < 0.85:
            source = jitter_colour(source, rng, strength=strength * rng.uniform(0.3, 1.0))
        source = paste.resolution(source, rng)
        source = paste.sharpness(source, rng)
        fake, change = paste.blend(crop, source, mask)
        if change >= _LEAST_CHANGE:
            break
    return fake


def _self_blend_global(bank: FaceBank, index: int, crop: U8, rng: np.random.Generator) -> U8:
    return _self_blend(bank, index, crop, rng, GLOBAL_SHAPES)


def _self_blend_local(bank: FaceBank, index: int, crop: U8, rng: np.random.Generator) -> U8:
    return _self_blend(bank, index, crop, rng, LOCAL_SHAPES)


def _cross_swap(bank: FaceBank, index: int, crop: U8, rng: np.random.Generator) -> U8:
    """Another person's face, warped onto this one's landmarks (Face X-ray, Li et al. 2020, section 3.2)."""
    landmarks = bank.landmarks[index]
    donor = bank.donor(index, rng, candidates=int(rng.integers(50, 200)))
    theirs, ours = fit_canonical(bank.landmarks[donor]), fit_canonical(landmarks)
    linear = ours[:, :2] @ np.linalg.inv(theirs[:, :2])
    to_crop = np.hstack([linear, (ours[:, 2] - linear @ theirs[:, 2])[:, None]])
    mask = paste.strong(draw_mask(landmarks, bank.side_px, rng, paste.swap_shapes(rng, foreign=True)), rng)
    source = warp_window(bank.crop(donor), to_crop, mask, interpolation=paste.warp_filter(rng))
    source = paste.resolution(source, rng, probability=0.5)
    return paste.finish(crop, source, mask, rng)


def _decoded(bank: FaceBank, index: int, crop: U8, rng: np.random.Generator, shapes: tuple[str, ...], mix: float) -> U8:
    """The face through the low-rank decoder, mixed with a donor's with probability ``mix``."""
    landmarks = bank.landmarks[index]
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
    mask = paste.strong(draw_mask(landmarks, bank.side_px, rng, shapes), rng)
    source = warp_window(decoder.decode(coefficients), patch_to_crop(landmarks), mask, interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.6:  # a decoder with a skip connection, or a restoration step, brings detail back
        target = crop[mask.window]
        sigma, amount = float(rng.uniform(0.8, 2.5)), float(rng.uniform(0.2, 0.9))
        detail = cv2.subtract(target, cv2.GaussianBlur(target, (0, 0), sigma), dtype=cv2.CV_16S)
        source = cv2.addWeighted(source, 1.0, detail, amount, 0, dtype=cv2.CV_8U).astype(np.uint8, copy=False)
    return paste.finish(crop, source, mask, rng)


def _decoder(bank: FaceBank, index: int, crop: U8, rng: np.random.Generator) -> U8:
    return _decoded(bank, index, crop, rng, GLOBAL_SHAPES, 0.65)


def _mouth_resynth(bank: FaceBank, index: int, crop: U8, rng: np.random.Generator) -> U8:
    return _decoded(bank, index, crop, rng, MOUTH_SHAPES, 0.85)


FAMILIES: dict[str, Family] = {
    "self_blend_global": Family(
        "the face blended with an altered copy of itself, whole-face masks", 0.10, _self_blend_global
    ),
    "self_blend_local": Family(
        "the same with local masks: eyes, nose, mouth, jaw, lower face", 0.10, _self_blend_local
    ),
    "cross_swap": Family("another person's face, nearest by landmarks, warped and colour matched", 0.15, _cross_swap),
    "decoder": Family("the face as a low-rank decoder draws it, often mixed with a donor", 0.10, _decoder),
    "mouth_resynth": Family("mouth and lower face redrawn by the low-rank decoder", 0.05, _mouth_resynth),
    "neural_swap": Family(
        "drawn by a learned swapper with a donor's features, 128 px, enlarged", 0.12, generated.neural_swap, drawn=True
    ),
    "neural_redraw": Family(
        "the face, or a donor's warped onto it, in the texture of a learned decoder", 0.23, generated.neural_redraw,
        drawn=True,
    ),
    "history": Family(
        "the same face with another past than its surroundings: sharpness, noise, coding, resolution", 0.15,
        generated.history,
    ),
}  # fmt: skip
