"""Families that imitate whole pipelines of live swap tools: draw small, enlarge, restore, match colours, paste.

A tool takes an aligned square of 128 to 320 px, lets a network draw on it, enlarges the drawing, often restores or
sharpens it, and pastes it with a soft mask: the shape of the face, or the square itself, eroded and feathered.
"""

from __future__ import annotations

import cv2
import numpy as np

from difffake.errors import DataError
from difffake.pseudofake import paste
from difffake.pseudofake.alter import recompress, resample, small_affine, unsharp, warp_window
from difffake.pseudofake.bank import U8, FaceBank
from difffake.pseudofake.capture import sensor_noise, smooth_skin
from difffake.pseudofake.generator import FACE_PX, SPAN, FaceGenerator, face_to_crop, take_face
from difffake.pseudofake.masks import draw_mask

_KERNELS = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
#: What tools draw at, next to our own 128 px.
_DRAWN_PX = (FACE_PX, FACE_PX, 192, 224, 256)
_TRIES = 3
_LEAST_CHANGE = 1.0  # levels, over the mask's core


def neural_swap(bank: FaceBank, index: int, crop: U8, rng: np.random.Generator) -> U8:
    """The face as the learned swapper draws it with a donor's features; one in four keeps the person."""
    generator, landmarks = _generator(bank), bank.landmarks[index]
    face = take_face(crop, landmarks)
    donor = index
    if rng.random() < 0.75 and bool((bank.people != bank.people[index]).any()):
        donor = bank.donor(index, rng, candidates=int(rng.integers(8, 128)))
    theirs = take_face(bank.crop(donor), bank.landmarks[donor])
    drawn = generator.swap(face, theirs, float(rng.uniform(0.6, 1.0)))
    if rng.random() < 0.3:
        drawn = generator.redraw(drawn)
    return _put_back(bank, index, crop, drawn, SPAN, rng)


def neural_redraw(bank: FaceBank, index: int, crop: U8, rng: np.random.Generator) -> U8:
    """The face in the texture of the learned decoder, at a random scale; every other time a donor's, warped onto it."""
    generator, landmarks = _generator(bank), bank.landmarks[index]
    # A narrow square is drawn with more pixels a face, as tools of 224 to 320 px do.
    span = float(rng.uniform(2.1, SPAN))
    face = take_face(crop, landmarks, span=span)
    foreign = bool(rng.random() < 0.5 and (bank.people != bank.people[index]).any())
    if foreign:
        donor = bank.donor(index, rng, candidates=int(rng.integers(32, 200)))
        theirs = take_face(bank.crop(donor), bank.landmarks[donor], span=span)
        share = float(rng.choice((1.0, 1.0, rng.uniform(0.4, 0.8))))
        face = np.asarray(cv2.addWeighted(theirs, share, face, 1 - share, 0), np.uint8)
    drawn = generator.redraw(face)
    if rng.random() < 0.25:
        drawn = generator.redraw(drawn)
    return _put_back(bank, index, crop, drawn, span, rng, foreign=foreign)


def history(bank: FaceBank, index: int, crop: U8, rng: np.random.Generator) -> U8:
    """The same face from a cleaner or worse source than its surroundings: nothing moves but texture.

    What a perfect swap would still leave behind: sharpness, noise, coding and resolution of a past of its own.
    """
    landmarks = bank.landmarks[index]
    eye_px = float(np.linalg.norm(landmarks[1] - landmarks[0]))
    fake = crop
    for _ in range(_TRIES):
        mask = paste.strong(draw_mask(landmarks, bank.side_px, rng, paste.swap_shapes(rng, foreign=False)), rng)
        clean = bank.crop(index) if rng.random() < 0.7 else crop
        source = clean[mask.window].copy()
        if rng.random() < 0.5:  # resampled on the way, a little off
            slight = small_affine(landmarks.mean(axis=0), 0.3 * eye_px, rng)
            slight[:, :2] += 0.85 * (np.eye(2, dtype=np.float32) - slight[:, :2])
            slight[:, 2] = landmarks.mean(axis=0) - slight[:, :2] @ landmarks.mean(axis=0) + rng.uniform(-0.7, 0.7, 2)
            source = warp_window(clean, slight, mask, interpolation=paste.warp_filter(rng))
        source = _past(source, rng)
        fake, change = paste.blend(crop, source, mask, two_bands=bool(rng.random() < 0.2))
        if change >= _LEAST_CHANGE:
            break
    return fake


def _past(source: U8, rng: np.random.Generator) -> U8:
    """One to three of: smoothing, sharpening, fewer pixels, JPEG, noise."""
    for kind in rng.choice(5, size=int(rng.integers(1, 4)), replace=False):
        if kind == 0:
            source = smooth_skin(source, rng)
        elif kind == 1:
            source = unsharp(source, float(rng.uniform(0.7, 2.5)), float(rng.uniform(0.3, 1.6)))
        elif kind == 2:
            source = resample(source, float(rng.uniform(0.35, 0.85)), rng)
        elif kind == 3:
            source = recompress(source, int(rng.integers(30, 95)))
        else:
            source = sensor_noise(source, float(rng.uniform(1, 6)), rng)
    return source


def _put_back(
    bank: FaceBank, index: int, crop: U8, drawn: U8, span: float, rng: np.random.Generator, *, foreign: bool = False
) -> U8:
    """A drawn face ``(128, 128, 3)`` enlarged, restored, warped into the crop and pasted."""
    landmarks = bank.landmarks[index]
    side = int(rng.choice(_DRAWN_PX))
    if side != FACE_PX:
        drawn = np.asarray(cv2.resize(drawn, (side, side), interpolation=int(rng.choice(_KERNELS))), np.uint8)
    restored = rng.random()
    if restored < 0.35:
        drawn = unsharp(drawn, float(rng.uniform(0.8, 2.2)), float(rng.uniform(0.4, 1.8)))
    elif restored < 0.5:
        drawn = smooth_skin(drawn, rng)
    mask = paste.strong(draw_mask(landmarks, bank.side_px, rng, paste.swap_shapes(rng, foreign=foreign)), rng)
    to_crop = face_to_crop(landmarks, side, span=span)
    source = warp_window(drawn, to_crop, mask, interpolation=int(rng.choice(_KERNELS)))
    if rng.random() < 0.4:  # texture of the original comes back, through a skip or a restoring step
        target = crop[mask.window]
        sigma, amount = float(rng.uniform(0.8, 2.5)), float(rng.uniform(0.2, 0.9))
        detail = cv2.subtract(target, cv2.GaussianBlur(target, (0, 0), sigma), dtype=cv2.CV_16S)
        source = np.asarray(cv2.addWeighted(source, 1.0, detail, amount, 0, dtype=cv2.CV_8U), np.uint8)
    return paste.finish(crop, source, mask, rng)


def _generator(bank: FaceBank) -> FaceGenerator:
    if bank.generator is None:
        raise DataError(
            "this family draws with a learned generator, and the face bank has none",
            hint="difffake train-generator STORE makes one; or choose families that need none",
        )
    return bank.generator
