"""Contact sheets: what each family looks like, real beside fake."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from difffake.errors import DataError
from difffake.pseudofake.bank import U8, FaceBank
from difffake.pseudofake.degrade import degrade_pairs
from difffake.pseudofake.families import make_fake, shares_of

_TILE_PX, _GAP_PX, _COLUMNS = 112, 4, 4
_MAX_SAMPLES = 256


def contact_sheet(bank: FaceBank, family: str, rng: np.random.Generator, *, n: int = 32) -> U8:
    """``n`` pairs, real on the left and fake on the right, four pairs a line; RGB ``(H, W, 3) uint8``.

    ``family`` is a name of `FAMILIES`, or ``"degrade"``: then the right half is the same face after `degrade`.
    Shows the part of each crop that the model sees. Raises DataError for an unknown family.
    """
    if not 1 <= n <= _MAX_SAMPLES:
        raise DataError(f"a contact sheet of {n} samples", hint=f"Give 1 to {_MAX_SAMPLES}.")
    rows = rng.choice(len(bank), size=n, replace=len(bank) < n)
    if family == "degrade":
        real = np.stack([bank.crop(int(row)) for row in rows])
        _, fake = degrade_pairs(real, real, rng)
    else:
        real = np.stack([bank.crop(int(row)) for row in rows])
        fake = np.stack([make_fake(bank, int(row), family, rng) for row in rows])
    lines = -(-n // _COLUMNS)
    step_x, step_y = 2 * _TILE_PX + _GAP_PX, _TILE_PX + _GAP_PX
    sheet = np.full((lines * step_y, _COLUMNS * step_x, 3), 255, np.uint8)
    for number, pair in enumerate(zip(real, fake, strict=True)):
        top, left = (number // _COLUMNS) * step_y, (number % _COLUMNS) * step_x
        sheet[top : top + _TILE_PX, left : left + 2 * _TILE_PX] = np.hstack([_tile(crop) for crop in pair])
    return sheet


def write_contact_sheets(bank: FaceBank, out_dir: Path, *, seed: int = 0, n: int = 32) -> list[Path]:
    """One JPEG per family, and one for `degrade`, in ``out_dir``; returns their paths."""
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, name in enumerate([*shares_of(bank), "degrade"]):
        sheet = contact_sheet(bank, name, np.random.default_rng([seed, number]), n=n)
        path = out_dir / f"{name}.jpg"
        _, coded = cv2.imencode(".jpg", sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
        path.write_bytes(coded.tobytes())
        paths.append(path)
    return paths


def _tile(crop: U8) -> U8:
    side = crop.shape[0]
    margin = round(side * (1 - 224 / 288) / 2)
    seen = crop[margin : side - margin, margin : side - margin]
    return np.asarray(cv2.resize(seen, (_TILE_PX, _TILE_PX), interpolation=cv2.INTER_AREA), np.uint8)
