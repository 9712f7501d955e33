"""The networks of a bundle, opened with the engines that were asked for; and how a model id names those engines.

Only ONNX Runtime gives the very digits that a bundle was calibrated with. Scores by another engine carry its name
behind the bundle's, as in ``NAME-DIGEST+openvino-int8-1a2b3c4d+identity-openvino-bf16``: the extractor's engine, then
the identity network's, each with eight digits that stand for its compiled files, where it has any; ``+detector-KIND``
follows where the face detector runs on another runtime.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from difffake.bundle import Bundle
from difffake.errors import EngineFileError, EngineHostError
from difffake.faces.runtime import DetectorRuntime
from difffake.identity import IDENTITY_SIDE_PX
from engines.choose import EngineKind, Opened, is_there, open_engine
from engines.contract import Engine, EngineSpec

EXTRACTOR, IDENTITY, DETECTOR = "extractor", "identity", "detector"
#: Faces in one run of a network on the CPU, however many wait: the runtime keeps for good what its largest run needed,
#: 10 MiB a face. On one thread the extractor is fastest face by face, whose arrays just fit a core's cache; several
#: threads need more to share.
RUN_FACES = 4
RUN_FACES_ALONE = {EXTRACTOR: 1, IDENTITY: 8}
_KINDS = "|".join(
    sorted((re.escape(kind) for kind in EngineKind.concrete() if kind is not EngineKind.ONNX), key=len, reverse=True)
)
_LABEL = rf"(?:{_KINDS})(?:-[0-9a-f]{{8}})?"
_DETECTORS = "|".join(kind for kind in DetectorRuntime if kind is not DetectorRuntime.ONNX)
_MODEL_ID = re.compile(
    rf"(?P<model>.*?)(?:\+(?P<extractor>{_LABEL}))?(?:\+{IDENTITY}-(?P<identity>{_LABEL}))?"
    rf"(?:\+{DETECTOR}-(?P<detector>{_DETECTORS}))?",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """Which engines run the networks of a bundle.

    Args:
        kind: of the extractor. The identity network runs on the same kind where its engine lies ready, else on ONNX
            Runtime, which costs time and no exactness.
        folder: holds ``extractor/`` and ``identity/`` with compiled engines; None: the bundle's own ``engines/``.
        identity: of the identity network, if it is to be another.
        detector: what runs the face detector. Others than ONNX Runtime cut faces out elsewhere, in bfloat16 so much
            that the scores that follow refuse it (``docs/engines.md``): none is taken unasked.
    """

    kind: EngineKind = EngineKind.ONNX
    folder: Path | None = None
    identity: EngineKind | None = None
    detector: DetectorRuntime = DetectorRuntime.ONNX


@dataclass(frozen=True, slots=True)
class ModelName:
    """What a model id says: the bundle's own id, and the engines of all networks; ``onnx`` where it names none."""

    model: str
    extractor: str = EngineKind.ONNX.value
    identity: str = EngineKind.ONNX.value
    detector: str = DetectorRuntime.ONNX.value

    @classmethod
    def parse(cls, model_id: str) -> Self:
        """Read a model id, whoever wrote it; what is no engine's name belongs to the bundle's."""
        found = _MODEL_ID.fullmatch(model_id)
        assert found is not None  # noqa: S101  (the first group takes anything)
        onnx = EngineKind.ONNX.value
        return cls(found["model"], *(found[name] or onnx for name in (EXTRACTOR, IDENTITY, DETECTOR)))

    def __str__(self) -> str:
        onnx = EngineKind.ONNX.value
        extractor = "" if self.extractor == onnx else f"+{self.extractor}"
        identity = "" if self.identity == onnx else f"+{IDENTITY}-{self.identity}"
        detector = "" if self.detector == onnx else f"+{DETECTOR}-{self.detector}"
        return f"{self.model}{extractor}{identity}{detector}"

    def choice(self, folder: Path | None = None) -> EngineChoice:
        """The engines that gave these scores."""
        return EngineChoice(
            EngineKind.of_label(self.extractor),
            folder,
            EngineKind.of_label(self.identity),
            DetectorRuntime(self.detector),
        )


@dataclass(frozen=True, slots=True)
class EngineUse:
    """What runs one of the networks.

    Attributes:
        network: ``extractor``, ``identity`` or ``detector``.
        engine: as a model id names it.
        asked: what was asked for.
        fallback: why a better engine that was asked for and lies ready does not run; empty where it does.
    """

    network: str
    engine: str
    asked: str
    fallback: str = ""


@dataclass(frozen=True, slots=True)
class Networks:
    """Open engines of a bundle; whoever opened them closes them.

    Args:
        extractor: gives embeddings and logits.
        identity: gives identity embeddings; None where the bundle has no such network.
        model_id: names the bundle and these engines.
        uses: what runs each network, the detector included.
    """

    extractor: Engine
    identity: Engine | None
    model_id: str
    uses: tuple[EngineUse, ...] = ()

    def close(self) -> None:
        """Release both."""
        self.extractor.close()
        if self.identity is not None:
            self.identity.close()


def open_networks(
    bundle: Bundle, choice: EngineChoice | None = None, *, threads: int = 0, max_batch: int | None = None
) -> Networks:
    """Open a bundle's networks; the face detector is no part of it and is opened by whoever finds faces.

    Args:
        threads: of each network on the CPU; 0 takes every core.
        max_batch: on the CPU, faces in one run, see `engines.choose.open_engine`; by default what costs least.

    Raises:
        EngineError: the engine that was asked for by name cannot run here; or a network cannot be loaded at all.
        EngineFileError: a network is not the one that the bundle's manifest speaks of.
        BundleError: a network was replaced since the bundle was loaded.
    """
    choice = choice or EngineChoice()
    folder = bundle.path / "engines" if choice.folder is None else choice.folder
    run = RUN_FACES_ALONE if threads == 1 else dict.fromkeys(RUN_FACES_ALONE, RUN_FACES)
    if max_batch is not None:
        run = dict.fromkeys(run, max_batch)
    network, place = bundle.engine_path, folder / EXTRACTOR
    extractor = open_engine(choice.kind, network, place, threads=threads, max_batch=run[EXTRACTOR])
    identity, manifest = None, bundle.manifest
    try:
        _check(bundle, EXTRACTOR, extractor.engine.spec, manifest.side_px, manifest.dim, has_logit=True)
        identity = _identity(bundle.identity_path, folder / IDENTITY, choice, threads, run[IDENTITY])
        if identity is not None:
            _check(bundle, IDENTITY, identity.engine.spec, IDENTITY_SIDE_PX, manifest.identity_dim, has_logit=False)
        bundle.check_unchanged()
    except BaseException:
        extractor.engine.close()
        if identity is not None:
            identity.engine.close()
        raise
    label = EngineKind.ONNX.value if identity is None else identity.label
    name = ModelName(bundle.model_id, extractor.label, label, choice.detector.value)
    uses = [EngineUse(EXTRACTOR, extractor.label, choice.kind.value, extractor.fallback)]
    if identity is not None:
        asked = choice.kind if choice.identity is None else choice.identity
        uses.append(EngineUse(IDENTITY, identity.label, asked.value, identity.fallback))
    uses.append(EngineUse(DETECTOR, choice.detector.value, choice.detector.value))
    return Networks(extractor.engine, None if identity is None else identity.engine, str(name), tuple(uses))


def _check(bundle: Bundle, network: str, spec: EngineSpec, side_px: int, dim: int, *, has_logit: bool) -> None:
    """Whether it is the network that the manifest speaks of: another one's faces and scores would be wrong, or fail far
    from the cause."""
    found, told = (spec.side_px, spec.dim), (side_px, dim)
    if found != told or (has_logit and not spec.has_logit):
        raise EngineFileError(
            f"bundle {bundle.path.name}: its {network} takes {found[0]} px and gives {found[1]} numbers"
            f"{'' if spec.has_logit or not has_logit else ' and no logit'}, the manifest says {told[0]} and {told[1]}",
            hint="install the bundle again, or write it again with `difffake fit`",
        )


def _identity(network: Path | None, folder: Path, choice: EngineChoice, threads: int, max_batch: int) -> Opened | None:
    if network is None:
        return None

    def opened(kind: EngineKind) -> Opened:
        return open_engine(kind, network, folder, threads=threads, max_batch=max_batch)

    if choice.identity is not None:
        return opened(choice.identity)
    try:
        return opened(choice.kind)
    except (EngineFileError, EngineHostError):
        if is_there(choice.kind, folder):
            raise  # somebody compiled it, and it does not run: that must not go unnoticed
    return opened(EngineKind.ONNX)
