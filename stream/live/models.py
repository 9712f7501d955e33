"""The networks of a worker, shared by all of its streams; what they see in a frame depends on that frame alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from difffake.anchors.file import networks
from difffake.bundle import Bundle
from difffake.faces import CenterFace, FaceDetector, Faces, align, assess
from difffake.faces.quality import Quality
from difffake.identity import align_identity
from difffake.networks import EngineChoice, open_networks
from difffake.scoring import Scorer
from engines.contract import Engine
from stream.live.settings import LiveSettings
from stream.messages.state import MAX_STATE_BYTES

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What the networks see in one frame: N faces, best first, as aligned arrays.

    Args:
        faces, quality: N rows each.
        embedding: ``(N, D) float32``; NaN where the face is not fit for it, as in the following.
        logit: ``(N,) float32``.
        identity: ``(N, I) float32``; I is 0 without an identity network.
        artifact, artifact_p: ``(N,) float64``, the score of `artifact` evidence and its p-value.
    """

    faces: Faces
    quality: Quality
    embedding: F32
    logit: F32
    identity: F32
    artifact: F64
    artifact_p: F64


class LiveModels:
    """Face detector, extractor, identity network and scorer; use as a context manager, or call `close`.

    Args:
        bundle: the model.
        engine: its extractor.
        identity_engine: its identity network, if it has one.
        faces: finds the faces.
        settings: bounds, batch sizes.
        model_id: names the bundle and the engines; the bundle's own by default.

    Raises:
        ValueError: settings with which the state of a stream could outgrow a record.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        identity_engine: Engine | None,
        faces: FaceDetector,
        settings: LiveSettings | None = None,
        model_id: str | None = None,
    ) -> None:
        #: Of the bundle, and the engines of its networks; see `difffake.networks`.
        self.model_id = model_id or bundle.model_id
        self.bundle, self.scorer = bundle, Scorer(bundle)
        self._engine, self._identity_engine, self._faces = engine, identity_engine, faces
        self._settings = settings or LiveSettings()
        self.identity_dim = 0 if identity_engine is None else identity_engine.spec.dim
        if self._settings.state_bytes(engine.spec.dim, self.identity_dim) > MAX_STATE_BYTES:
            raise ValueError("max_people, max_anchors, max_enrolled and the anchor's min_frames allow states too large")
        #: Evidence -> its score; what needs an identity network is left out where there is none.
        self.evidence = {
            e: name for e, name in bundle.manifest.evidence.items() if self.identity_dim or not e.startswith("identity")
        }
        artifact = self.evidence.get("artifact")
        # A score against frames of the same clip needs the clip as a whole.
        self.artifact = artifact if artifact and self.scorer.spec(artifact).anchor == "none" else None

    @classmethod
    def load(cls, bundle: Path | None, settings: LiveSettings, engines: EngineChoice | None = None) -> Self:
        """Load a bundle, the shipped one for None, to run on ``engines``, ONNX Runtime on the CPU by default.

        Raises:
            BundleError: the bundle is missing or damaged.
            EngineError: its network cannot be loaded, or the engine asked for cannot run here.
        """
        loaded = Bundle.load(bundle)
        faces = CenterFace(settings.analysis_side_px, threads=settings.threads, max_faces=settings.max_faces)
        opened = open_networks(loaded, engines, threads=settings.threads)
        return cls(loaded, opened.extractor, opened.identity, faces, settings, opened.model_id)

    @property
    def networks(self) -> str:
        """Which networks made the embeddings: those of others cannot be compared with them. Engines of one network
        can: none runs without a parity report that says that its scores mean the same (``docs/engines.md``)."""
        extractor, identity = networks(self.bundle)
        return f"{extractor}/{identity or ''}" if self.identity_dim else f"{extractor}/"

    def look(self, images: Sequence[U8]) -> list[Look]:
        """Find, align, judge and embed the faces of RGB images ``(H, W, 3) uint8``; keeps nothing.

        Images go through the networks in runs of whole images.

        Raises:
            ValueError: an image is not ``(H, W, 3) uint8``.
            EngineError: a network failed.
        """
        seen: list[Look] = []
        for start, stop in self._runs(images):
            seen.extend(self._run(images[start:stop]))
        return seen

    def _runs(self, images: Sequence[U8]) -> list[tuple[int, int]]:
        runs, start, pixels = [], 0, 0.0
        for i, image in enumerate(images):
            pixels += image.shape[0] * image.shape[1]
            if i + 1 - start >= self._settings.detect_batch or pixels >= self._settings.detect_megapixels * 1e6:
                runs.append((start, i + 1))
                start, pixels = i + 1, 0.0
        return [*runs, (start, len(images))] if start < len(images) else runs

    def _run(self, images: Sequence[U8]) -> list[Look]:
        side, eye_distance = self._engine.spec.side_px, self.bundle.manifest.eye_distance
        found = [faces[: self._settings.max_faces] for faces in self._faces.detect(images)]
        qualities, crops, chips = [], [np.zeros((0, side, side, 3), np.uint8)], []
        for image, faces in zip(images, found, strict=True):
            cut, _ = align(image, faces.landmarks_px, side_px=side, eye_distance=eye_distance)
            quality = assess((image.shape[0], image.shape[1]), faces, cut, eye_distance=eye_distance)
            qualities.append(quality)
            crops.append(cut[quality.ok])
            if self._identity_engine is not None:
                chips.append(align_identity(image, faces.landmarks_px[quality.ok]))
        good = np.concatenate([np.zeros(0, bool), *(q.ok for q in qualities)])
        embedding = np.full((len(good), self._engine.spec.dim), np.nan, np.float32)
        logit = np.full(len(good), np.nan, np.float32)
        identity = np.full((len(good), self.identity_dim), np.nan, np.float32)
        if good.any():
            result = self._engine.infer(_channels_first(np.concatenate(crops)))
            embedding[good], logit[good] = result.embedding, result.logit
            if self._identity_engine is not None:
                identity[good] = self._identity_engine.infer(_channels_first(np.concatenate(chips))).embedding
        ends = np.cumsum([len(faces) for faces in found])
        looks = []
        for faces, quality, end in zip(found, qualities, ends.tolist(), strict=True):
            rows = slice(end - len(faces), end)
            artifact, p = self._judge(embedding[rows], logit[rows], quality.ok)
            looks.append(Look(faces, quality, embedding[rows], logit[rows], identity[rows], artifact, p))
        return looks

    def _judge(self, embedding: F32, logit: F32, good: npt.NDArray[np.bool_]) -> tuple[F64, F64]:
        """The `artifact` score of each face and its p-value, frame by frame: the others of a run change nothing."""
        score, p_value = np.full(len(good), np.nan), np.full(len(good), np.nan)
        if self.artifact is not None and good.any():
            times = np.zeros(int(good.sum()))
            score[good] = self.scorer.score(embedding[good], logit[good], times, only=(self.artifact,))[self.artifact]
            p_value = self.scorer.p_value(self.artifact, score)
        return score, p_value

    def close(self) -> None:
        """Release the networks."""
        self._engine.close()
        if self._identity_engine is not None:
            self._identity_engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _channels_first(crops: U8) -> U8:
    return np.ascontiguousarray(crops.transpose(0, 3, 1, 2))
