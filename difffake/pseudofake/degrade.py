"""What streams do to a picture: resampling, blur, light, noise, sharpening, JPEG, and real H.264 or H.265.

One recipe per row, drawn before any picture is touched: a real crop and its fake go through the same one, so
that neither codec nor blur can give the answer away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from difffake.errors import DataError
from difffake.pseudofake.alter import INTERPOLATIONS, recompress, unsharp
from difffake.pseudofake.bank import F32, I32, I64, U8, Bools
from difffake.pseudofake.codec import Codec, through_codec

UNTOUCHED = 0.25
CRF_RANGE = (18, 40)
# libx265 costs several times libx264: one batch in so many sends one of its groups through it.
H265_EVERY = 8


@dataclass(frozen=True, slots=True)
class _Recipes:
    """One row a picture. A parameter of zero means that the step is left out."""

    factor: F32  # resampling, 1: none
    filters: I32  # (B, 2) interpolation down and up
    blur_px: F32
    motion_px: I32
    angle: F32
    gamma: F32
    gain: F32  # (B, 3)
    shift: F32  # (B, 3)
    noise: F32
    seed: I32
    sharpen: F32
    jpeg: I32
    group: I32  # video group, -1: none


@dataclass(frozen=True, slots=True)
class _Coder:
    """The encoder of one group of images."""

    rows: I64
    codec: Codec
    crf: int
    scale: float  # a group may be coded small, as small faces are
    moves_px: F32  # (len(rows), 2)

    def code(self, batch: U8, moves_px: F32) -> U8:
        """Images ``(N, S, S, 3) uint8`` through it, moved by ``(N, 2)`` since the frame before."""
        height, width = batch.shape[1:3]
        if self.scale < 1:
            small = (max(round(width * self.scale), 16), max(round(height * self.scale), 16))
            batch = np.stack([_u8(cv2.resize(image, small, interpolation=cv2.INTER_AREA)) for image in batch])
        batch = through_codec(batch, self.crf, moves_px, codec=self.codec)
        if self.scale < 1:
            back = [cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC) for image in batch]
            batch = np.stack([_u8(image) for image in back])
        return batch


def degrade(images: U8, rng: np.random.Generator, *, strength: float = 1.0) -> U8:
    """What a stream does to each of ``images (B, S, S, 3) uint8``; same shape, same order.

    About a quarter stay as they are. ``strength`` in [0, 1] scales how often a step is taken and how far it
    goes; 0 changes nothing. Raises DataError for wrong input.
    """
    (done,) = _apply((images,), rng, strength)
    return done


def degrade_pairs(real: U8, fake: U8, rng: np.random.Generator, *, strength: float = 1.0) -> tuple[U8, U8]:
    """`degrade` for two aligned arrays ``(B, S, S, 3) uint8``: row i of both meets the same recipe.

    The same draws, the same noise field, the same encoder. Raises DataError where the shapes differ.
    """
    if real.shape != fake.shape:
        raise DataError(
            f"real {real.shape} and fake {fake.shape} do not pair",
            hint="Give two aligned arrays of the same shape.",
        )
    done_real, done_fake = _apply((real, fake), rng, strength)
    return done_real, done_fake


def degrade_companions(
    frames: U8, companion_of: I64, count: int, rng: np.random.Generator, *, strength: float = 1.0
) -> U8:
    """Other frames of the streams that ``count`` images came from; ``(C, S, S, 3) uint8``, same shape, same order.

    ``rng`` is a copy of what `degrade` or `degrade_pairs` was given for the ``count`` images: frame i meets the recipe
    of image ``companion_of[i]`` (``(C,) int64``), but has noise and motion of its own, as two frames of one stream do.
    Several frames may belong to one image. Raises DataError for wrong input.
    """
    _check(frames, strength)
    rows = np.asarray(companion_of, np.int64)
    if rows.shape != frames.shape[:1] or (rows.size and not 0 <= rows.min() <= rows.max() < count):
        raise DataError(f"companions of {rows.shape} of {count} images", hint="Give an index below count a frame.")
    recipes = _draw(count, rng, strength)
    done = frames.copy()
    for i, row in enumerate(rows):
        done[i] = _one(done[i], recipes, int(row), noise=[int(recipes.seed[row]), 1 + i])  # a trailing 0 seeds nothing
    for coder in _draw_coders(recipes.group, rng, strength):
        chosen = np.flatnonzero(np.isin(rows, coder.rows))
        moves = dict(zip(coder.rows.tolist(), -coder.moves_px, strict=True))
        if chosen.size:
            done[chosen] = coder.code(done[chosen], np.stack([moves[int(row)] for row in rows[chosen]]))
    return done


def _apply(stacks: tuple[U8, ...], rng: np.random.Generator, strength: float) -> tuple[U8, ...]:
    for stack in stacks:
        _check(stack, strength)
    count = stacks[0].shape[0]
    recipes = _draw(count, rng, strength)
    done = tuple(stack.copy() for stack in stacks)
    for stack in done:
        for row in range(count):
            stack[row] = _one(stack[row], recipes, row, noise=int(recipes.seed[row]))
    for coder in _draw_coders(recipes.group, rng, strength):
        batch = np.concatenate([stack[coder.rows] for stack in done])
        coded = coder.code(batch, np.tile(coder.moves_px, (len(done), 1)))
        for stack, part in zip(done, np.split(coded, len(done)), strict=True):
            stack[coder.rows] = part
    return done


def _check(images: U8, strength: float) -> None:
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise DataError(
            f"cannot degrade images of shape {images.shape} and type {images.dtype}",
            hint="Give (B, S, S, 3) uint8.",
        )
    if not 0 <= strength <= 1:
        raise DataError(f"a strength of {strength}", hint="Give 0 (nothing) to 1 (as on streams).")


def _draw(count: int, rng: np.random.Generator, strength: float) -> _Recipes:
    touched = rng.random(count) < 1 - UNTOUCHED

    def often(probability: float) -> Bools:
        drawn: Bools = touched & (rng.random(count) < probability * strength)
        return drawn

    def uniform(low: float, high: float, *shape: int) -> F32:
        return rng.uniform(low, high, size=(count, *shape)).astype(np.float32)

    light = often(0.5)
    spread = np.where(light, strength, 0.0).astype(np.float32)
    groups = int(rng.integers(2, 5)) if count >= 8 else 1
    return _Recipes(
        factor=np.where(often(0.45), 1 - strength * uniform(0, 0.7), 1).astype(np.float32),
        filters=rng.integers(len(INTERPOLATIONS), size=(count, 2)).astype(np.int32),
        blur_px=np.where(often(0.2), strength * uniform(0.4, 1.6), 0).astype(np.float32),
        motion_px=np.where(often(0.08), rng.integers(3, 8, size=count), 0).astype(np.int32),
        angle=uniform(0, np.pi),
        gamma=np.exp(spread * uniform(-0.3, 0.3)).astype(np.float32),
        gain=(1 + spread[:, None] * (uniform(-0.15, 0.15, 1) + uniform(-0.05, 0.05, 3))).astype(np.float32),
        shift=(spread[:, None] * (uniform(-15, 15, 1) + uniform(-4, 4, 3))).astype(np.float32),
        noise=np.where(often(0.2), strength * uniform(1, 6), 0).astype(np.float32),
        seed=rng.integers(2**31 - 1, size=count).astype(np.int32),
        sharpen=np.where(often(0.15), strength * uniform(0.2, 1.2), 0).astype(np.float32),
        jpeg=np.where(often(0.35), np.round(100 - strength * uniform(0, 70)), 0).astype(np.int32),
        group=np.where(often(0.6), rng.integers(groups, size=count), -1).astype(np.int32),
    )


def _one(image: U8, recipes: _Recipes, row: int, *, noise: int | list[int]) -> U8:
    height, width = image.shape[:2]
    factor = float(recipes.factor[row])
    if factor < 1:
        down, up = (INTERPOLATIONS[int(kind)] for kind in recipes.filters[row])
        small = (max(round(width * factor), 8), max(round(height * factor), 8))
        image = _u8(cv2.resize(cv2.resize(image, small, interpolation=down), (width, height), interpolation=up))
    if recipes.blur_px[row] > 0:
        image = _u8(cv2.GaussianBlur(image, (0, 0), float(recipes.blur_px[row])))
    if recipes.motion_px[row] > 0:
        image = _u8(cv2.filter2D(image, -1, _motion(int(recipes.motion_px[row]), float(recipes.angle[row]))))
    if recipes.gamma[row] != 1:
        ramp = 255 * (np.arange(256, dtype=np.float32) / 255) ** recipes.gamma[row]
        table = (ramp[:, None] - 128) * recipes.gain[row] + 128 + recipes.shift[row]
        image = _u8(cv2.LUT(image, np.clip(np.round(table), 0, 255).astype(np.uint8)[None]))
    if recipes.noise[row] > 0:
        image = _add_noise(image, float(recipes.noise[row]), noise)
    if recipes.sharpen[row] > 0:
        image = unsharp(image, 1.0, float(recipes.sharpen[row]))
    if recipes.jpeg[row] > 0:
        image = recompress(image, int(recipes.jpeg[row]))
    return image


def _draw_coders(group: I32, rng: np.random.Generator, strength: float) -> Iterator[_Coder]:
    """One encoder for each group that is not empty."""
    h265 = bool(rng.integers(H265_EVERY) == 0)
    for number in range(int(group.max(initial=-1)) + 1):
        low, high = CRF_RANGE
        crf = int(rng.integers(low, round(low + strength * (high - low)) + 1))
        scale = (1.0, 1.0, 0.75, 0.5)[int(rng.integers(4))]
        codec: Codec = "h265" if h265 and number == 0 else "h264"
        rows = np.flatnonzero(group == number)
        if rows.size:
            moves = rng.uniform(-3, 3, size=(rows.size, 2)).astype(np.float32)
            yield _Coder(rows, codec, crf, scale, moves)


def _motion(length: int, angle: float) -> F32:
    """A line of ``length`` px at ``angle``, as a kernel that sums to one."""
    kernel = np.zeros((length, length), np.float32)
    centre = (length - 1) / 2
    reach = centre * np.array([np.cos(angle), np.sin(angle)])
    ends = [tuple(int(v) for v in np.round((centre + sign * reach) * 16)) for sign in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0, 1, cv2.LINE_8, 4)
    return kernel / np.float32(kernel.sum())


def _add_noise(image: U8, sigma: float, seed: int | list[int]) -> U8:
    field = np.random.default_rng(seed).standard_normal(image.shape, dtype=np.float32)
    return _u8(cv2.add(image, sigma * field, dtype=cv2.CV_8U))


def _u8(image: object) -> U8:
    return np.asarray(image, np.uint8)
