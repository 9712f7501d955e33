"""A low-rank face decoder: the smooth, average-leaning faces that generators emit, at the cost of a matrix product.

Faces are brought to canonical coordinates as a 96 px luma and two 32 px chroma planes, and described by their
first principal components (eigenfaces, Turk & Pentland 1991). Decoding few components, or a mix of two people's,
gives what a face-swapping autoencoder gives: right layout, lost texture.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import cv2
import numpy as np

from difffake.errors import DataError
from difffake.pseudofake.bank import F32, U8, FaceBank
from difffake.pseudofake.masks import fit_canonical

LUMA_PX, CHROMA_PX = 96, 32
MAX_COMPONENTS = 250
MAX_SAMPLES = 3000
# The square of canonical space that is decoded: brows to chin with some room, in eye distances.
_LEFT, _TOP, _SIDE = -1.2, -0.75, 2.5


@dataclass(frozen=True, slots=True)
class FaceDecoder:
    """``mean (D,) float32``, ``basis (K, D) float32`` with orthonormal rows, ``scale (K,) float32`` deviations."""

    mean: F32
    basis: F32
    scale: F32

    def encode(self, patch: U8, components: int) -> F32:
        """Coefficients ``(components,)`` of an RGB patch ``(96, 96, 3)``."""
        return np.asarray(self.basis[:components] @ (_planes(patch) - self.mean), np.float32)

    def decode(self, coefficients: F32) -> U8:
        """The RGB patch ``(96, 96, 3) uint8`` of coefficients ``(components,)``."""
        return _picture(self.mean + coefficients @ self.basis[: coefficients.size])


def patch_to_crop(landmarks_px: F32) -> F32:
    """Affine map ``(2, 3) float32`` from px of a decoded patch to px of the crop."""
    affine = fit_canonical(landmarks_px)
    step = _SIDE / LUMA_PX
    origin = affine[:, :2] @ np.array([_LEFT + step / 2, _TOP + step / 2]) + affine[:, 2]
    return np.hstack([affine[:, :2] * step, origin[:, None]]).astype(np.float32)


def take_patch(crop: U8, landmarks_px: F32) -> U8:
    """The face in canonical coordinates, ``(96, 96, 3) uint8``."""
    return cv2.warpAffine(
        crop,
        patch_to_crop(landmarks_px),
        (LUMA_PX, LUMA_PX),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    ).astype(np.uint8, copy=False)


def fit_decoder(bank: FaceBank, rng: np.random.Generator, *, samples: int = MAX_SAMPLES) -> FaceDecoder:
    """Fit the decoder on at most ``samples`` random faces of the bank.

    Randomised range finder with one power iteration (Halko, Martinsson & Tropp 2011, algorithm 4.4). At most a
    third as many components as samples, so that no face is simply remembered. Raises DataError for a bank of
    fewer than six faces.
    """
    count = min(len(bank), samples, MAX_SAMPLES)
    if count < 6:
        raise DataError(
            f"a face decoder cannot be fitted on {count} faces",
            hint="Give a face bank of at least six faces; a few hundred make a useful decoder.",
        )
    rows = np.sort(rng.choice(len(bank), size=count, replace=False))
    data = np.stack([_planes(take_patch(bank.crop(int(row)), bank.landmarks[row])) for row in rows])
    mean = data.mean(axis=0)
    data -= mean
    components = min(MAX_COMPONENTS, count // 3)
    width = min(components + 10, count)
    sketch = data @ rng.standard_normal((data.shape[1], width), dtype=np.float32)
    q, _ = np.linalg.qr(sketch)
    q, _ = np.linalg.qr(data.T @ q)
    q, _ = np.linalg.qr(data @ q)
    _, singular, basis = np.linalg.svd(q.T @ data, full_matrices=False)
    return FaceDecoder(
        np.asarray(mean, np.float32),
        np.ascontiguousarray(basis[:components], np.float32),
        np.asarray(singular[:components] / np.sqrt(count), np.float32),
    )


_FITTED: WeakKeyDictionary[FaceBank, FaceDecoder] = WeakKeyDictionary()


def decoder_of(bank: FaceBank) -> FaceDecoder:
    """The bank's decoder, fitted once with a fixed seed and kept as long as the bank lives.

    Call it before starting worker processes, so that they inherit it instead of each fitting their own.
    """
    fitted = _FITTED.get(bank)
    if fitted is None:
        fitted = fit_decoder(bank, np.random.default_rng(0))
        _FITTED[bank] = fitted
    return fitted


def _planes(patch: U8) -> F32:
    ycc = cv2.cvtColor(patch, cv2.COLOR_RGB2YCrCb)
    chroma = cv2.resize(ycc[..., 1:], (CHROMA_PX, CHROMA_PX), interpolation=cv2.INTER_AREA)
    return np.concatenate([ycc[..., 0].ravel(), chroma.ravel()]).astype(np.float32)


def _picture(planes: F32) -> U8:
    flat = np.clip(np.round(planes), 0, 255).astype(np.uint8)
    luma = flat[: LUMA_PX * LUMA_PX].reshape(LUMA_PX, LUMA_PX)
    small = flat[LUMA_PX * LUMA_PX :].reshape(CHROMA_PX, CHROMA_PX, 2)
    chroma = cv2.resize(small, (LUMA_PX, LUMA_PX), interpolation=cv2.INTER_LINEAR)
    return cv2.cvtColor(np.dstack([luma, chroma]), cv2.COLOR_YCrCb2RGB).astype(np.uint8, copy=False)
