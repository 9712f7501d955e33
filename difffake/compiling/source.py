"""Which network is compiled: of a bundle, of a checkpoint, or the face detector."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from difffake.bundle import Bundle
from difffake.errors import BundleError, DataError, EngineFileError, MissingExtraError
from difffake.faces import EYE_DISTANCE
from difffake.faces.centerface import WEIGHTS, WEIGHTS_SHA256
from engines.half import NetworkShape, inspect, read_onnx
from engines.profile import Network

if TYPE_CHECKING:
    from difffake.extractor import Extractor


@dataclass(frozen=True, slots=True)
class Source:
    """A network as fp32 ONNX, and what is needed to judge a compiled form of it.

    Args:
        network: which one it is.
        name: for people ("difffake-lite0-1a2b3c extractor").
        onnx: the file's bytes.
        shape: its input and outputs.
        bundle: its scores and calibrations, where there is one.
        extractor: the network in torch, where a checkpoint was given.
        eye_distance: how its faces are aligned.
    """

    network: Network
    name: str
    onnx: bytes
    shape: NetworkShape
    bundle: Bundle | None = None
    extractor: Extractor | None = None
    eye_distance: float = EYE_DISTANCE

    @property
    def sha256(self) -> str:
        """Hex digest of the ONNX file."""
        return hashlib.sha256(self.onnx).hexdigest()


def open_source(network: Network, *, bundle: Path | None = None, checkpoint: Path | None = None) -> Source:
    """Read the network that shall be compiled.

    Args:
        network: of a bundle, ``extractor`` or ``identity``; ``detector`` needs neither bundle nor checkpoint.
        bundle: its folder; None takes the shipped one, unless a checkpoint is given.
        checkpoint: of an extractor. Alone, it is exported and compiled; beside a bundle it is what the bundle's
            network is compared with first.

    Raises:
        BundleError: no bundle, a damaged one, or one without this network.
        DataError: no checkpoint of ours, or one for a network that is none of the bundle's.
        MissingExtraError: a checkpoint, and torch is not installed.
    """
    if network == "detector":
        onnx = read_onnx(WEIGHTS)
        if hashlib.sha256(onnx).hexdigest() != WEIGHTS_SHA256:
            raise EngineFileError("the face detector's weights are damaged", hint="install difffake again")
        return Source(network, "CenterFace", onnx, inspect(onnx, network))
    if checkpoint is not None and network != "extractor":
        raise DataError("a checkpoint holds an extractor", hint=f"leave --checkpoint out, or --network {network}")
    if checkpoint is not None and bundle is None:
        return _from_checkpoint(checkpoint)
    loaded = Bundle.load(bundle)
    path = loaded.engine_path if network == "extractor" else loaded.identity_path
    if path is None:
        raise BundleError(
            f"the bundle {loaded.manifest.name} has no identity network",
            hint="take another one, or --network extractor",
        )
    onnx = read_onnx(path)
    extractor = None if checkpoint is None else _read_checkpoint(checkpoint)[0]
    return Source(
        network,
        f"{loaded.model_id} {network}",
        onnx,
        inspect(onnx, network),
        loaded,
        extractor,
        loaded.manifest.eye_distance,
    )


def _from_checkpoint(path: Path) -> Source:
    extractor, side_px = _read_checkpoint(path)
    from difffake.extractor import export_onnx

    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "extractor.onnx"
        export_onnx(extractor, file, side_px=side_px)
        onnx = read_onnx(file)
    return Source("extractor", f"{extractor.name} of {path.name}", onnx, inspect(onnx, "extractor"), None, extractor)


def _read_checkpoint(path: Path) -> tuple[Extractor, int]:
    try:
        from difffake.extractor import load_checkpoint
    except ImportError as error:
        raise MissingExtraError(
            f"reading a checkpoint needs {error.name}", hint="pip install 'difffake[train]', or give --bundle instead"
        ) from error
    checkpoint = load_checkpoint(path)
    return checkpoint.extractor, checkpoint.side_px
