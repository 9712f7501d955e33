"""What happened to a picture before anybody could swap a face in it: the camera, its software, the first coder."""

from __future__ import annotations

import cv2
import numpy as np

from difffake.pseudofake.alter import recompress, resample, unsharp
from difffake.pseudofake.bank import U8
from difffake.pseudofake.codec import through_codec


def capture(crop: U8, rng: np.random.Generator, *, another: bool = False) -> U8:
    """``crop (S, S, 3) uint8`` as a webcam or a call delivers it: one or more of the steps below.

    Fewer pixels, sensor noise, smoothed skin (a beauty filter keeps edges), sharpening, JPEG, and now and then H.264.
    ``another``: with a copy of the ``rng`` that a frame met, another frame of the same camera, of the same size: the
    same steps, but noise and motion of its own.
    """
    image = crop
    if rng.random() < 0.5:
        image = resample(image, float(rng.uniform(0.35, 1.0)), rng)
    if rng.random() < 0.3:
        image = sensor_noise(image, float(rng.uniform(1, 7)), rng, another=another)
    if rng.random() < 0.15:
        image = smooth_skin(image, rng)
    if rng.random() < 0.25:
        image = unsharp(image, float(rng.uniform(0.7, 2.0)), float(rng.uniform(0.2, 1.2)))
    if rng.random() < 0.35:
        image = recompress(image, int(rng.integers(35, 96)))
    if rng.random() < 0.15:
        move = rng.uniform(-3, 3, size=(1, 2)).astype(np.float32)
        image = through_codec(image[None], int(rng.integers(18, 36)), -move if another else move)[0]
    return image


def sensor_noise(image: U8, sigma: float, rng: np.random.Generator, *, another: bool = False) -> U8:
    """Noise of ``sigma`` levels as sensors and their software leave it: stronger in the dark, a little coarse."""
    height, width = image.shape[:2]
    field = rng.standard_normal((height, width, 3), dtype=np.float32)
    if another:  # every pixel has the noise of another one: as good as drawn anew, and rng stands where it would
        field = np.ascontiguousarray(field[::-1, ::-1])
    if rng.random() < 0.5:
        field = cv2.GaussianBlur(field, (0, 0), 0.7) * 2.2
    dark = 1.3 - image.astype(np.float32) / 255 * 0.8
    return np.asarray(np.clip(image + sigma * dark * field + 0.5, 0, 255), np.uint8)


def smooth_skin(image: U8, rng: np.random.Generator) -> U8:
    """Edges stay, texture goes: a bilateral filter, partly mixed back."""
    smooth = cv2.bilateralFilter(image, 7, float(rng.uniform(12, 45)), float(rng.uniform(2, 5)))
    share = float(rng.uniform(0.4, 1.0))
    return np.asarray(cv2.addWeighted(smooth, share, image, 1 - share, 0), np.uint8)
