"""Learned face generators as pseudo-fakes meet them: two ONNX files that `difffake train-generator` has made.

No torch here: batches are made in worker processes that run the networks by ONNX Runtime, one thread each.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import msgspec
import numpy as np
import onnxruntime as ort

from difffake.errors import DataError
from difffake.pseudofake.bank import F32, U8
from difffake.pseudofake.masks import fit_canonical

#: Side of the faces that generators take and draw.
FACE_PX = 128
# The square of canonical space that is drawn, in eye distances: the whole face with some room, as swap tools take it.
SPAN, _CENTRE = 3.0, (0.0, 0.25)
_MAX_BYTES = 64 * 2**20
_FILES = ("swapper", "redrawer")


class GeneratorManifest(msgspec.Struct, frozen=True):
    """``generator.json``: SHA-256 of the networks by name, and how they came about.

    ``seed`` and ``clip_shares`` say whose faces it has seen (`difffake.training.split`); None where that is not known.
    """

    version: int
    sha256: dict[str, str]
    people: int
    faces: int
    steps: int
    minutes: float
    seed: int | None = None
    clip_shares: tuple[float, float, float] | None = None


@dataclass(slots=True, eq=False)
class FaceGenerator:
    """A swapper and a redrawer; `load` opens them. Sessions are opened lazily, anew in every forked process."""

    networks: dict[str, bytes]
    manifest: GeneratorManifest
    _sessions: dict[str, ort.InferenceSession] = field(default_factory=dict)
    _process: int = 0

    @staticmethod
    def load(folder: Path) -> FaceGenerator:
        """Open what `difffake.training.generator.train_generator` wrote.

        Raises:
            DataError: a file that is missing, too large, or not the one its manifest names.
        """
        hint = "make it again: difffake train-generator STORE"
        try:
            manifest = msgspec.json.decode((folder / "generator.json").read_bytes(), type=GeneratorManifest)
            networks = {}
            for name in _FILES:
                path = folder / f"{name}.onnx"
                if path.stat().st_size > _MAX_BYTES:
                    raise DataError(f"{path} is too large to be a generator of ours", hint=hint)
                networks[name] = path.read_bytes()
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise DataError(f"{folder} holds no face generator: {error}", hint=hint) from error
        for name, data in networks.items():
            if hashlib.sha256(data).hexdigest() != manifest.sha256.get(name):
                raise DataError(f"{folder / name}.onnx is not the file of its manifest", hint=hint)
        return FaceGenerator(networks, manifest)

    def swap(self, target: U8, donor: U8, mix: float) -> U8:
        """``target (128, 128, 3) uint8`` with the features of ``donor``; ``mix`` in [0, 1] says how much of them."""
        feeds: dict[str, U8 | F32] = {"target": target[None], "donor": donor[None], "mix": np.array([mix], np.float32)}
        return self._run("swapper", feeds)

    def redraw(self, target: U8) -> U8:
        """The same face in the network's texture, ``(128, 128, 3) uint8``."""
        return self._run("redrawer", {"target": target[None]})

    def _run(self, name: str, feeds: dict[str, U8 | F32]) -> U8:
        if self._process != os.getpid():
            self._sessions, self._process = {}, os.getpid()
        if name not in self._sessions:
            options = ort.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 3
            self._sessions[name] = ort.InferenceSession(
                self.networks[name], options, providers=["CPUExecutionProvider"]
            )
        (drawn,) = self._sessions[name].run(None, feeds)
        return np.ascontiguousarray(drawn[0], np.uint8)


def face_to_crop(landmarks_px: F32, side_px: int = FACE_PX, *, span: float = SPAN) -> F32:
    """Affine map ``(2, 3) float32`` from px of a canonical face to the crop; it is ``span`` eye distances wide."""
    affine = fit_canonical(landmarks_px)
    step = span / side_px
    corner = np.array(_CENTRE) - span / 2 + step / 2
    return np.hstack([affine[:, :2] * step, (affine[:, :2] @ corner + affine[:, 2])[:, None]]).astype(np.float32)


def take_face(crop: U8, landmarks_px: F32, side_px: int = FACE_PX, *, span: float = SPAN) -> U8:
    """The face in canonical coordinates, ``(side_px, side_px, 3) uint8``."""
    to_crop = face_to_crop(landmarks_px, side_px, span=span)
    if np.linalg.norm(to_crop[:, 0]) > 1.3:  # several px become one: no aliasing
        crop = np.asarray(cv2.GaussianBlur(crop, (0, 0), 0.45 * float(np.linalg.norm(to_crop[:, 0]))), np.uint8)
    return cv2.warpAffine(
        crop,
        to_crop,
        (side_px, side_px),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    ).astype(np.uint8, copy=False)
