"""A model bundle on disk: everything that turns a face into evidence, each file hashed in the manifest.

=========================  =============================================================================
``manifest.json``          what this is, what it was trained on, which score answers which question
``extractor.onnx``         f: face -> embedding and logit
``identity.onnx``          optional: a face-recognition network, face -> identity embedding
``density.safetensors``    the Gaussian mixtures, by name
``calibration.safetensors``  score -> p-value under held-out real footage, by score
``projection.safetensors`` optional: a linear map of the embedding before differences and density
``head.safetensors``       optional: linear readings of the embedding that labelled fakes have taught, by name
=========================  =============================================================================

Only formats that cannot carry code: JSON, ONNX and safetensors. Every size is bounded before a byte is read.
Format 3 added heads, 4 heads on differences, 5 a reading of still pictures; older bundles are read as they are, and
older programs refuse newer ones, whose stills they would read by the wrong score.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from difffake.calibration import Calibration
from difffake.density import GaussianMixture
from difffake.differential import Combination
from difffake.errors import BundleError, DiffFakeError, OutputError
from difffake.files import not_written, write_whole
from difffake.head import LinearHead

FORMAT = 5
_READABLE = (2, 3, 4, FORMAT)
EXTRACTOR = "extractor.onnx"
IDENTITY = "identity.onnx"
DENSITY = "density.safetensors"
CALIBRATION = "calibration.safetensors"
PROJECTION = "projection.safetensors"
HEAD = "head.safetensors"
MANIFEST = "manifest.json"
_FILES = frozenset([EXTRACTOR, IDENTITY, DENSITY, CALIBRATION, PROJECTION, HEAD, MANIFEST])
#: Of still pictures: the manifest's name for the score that is read as `artifact` there, where it is another.
ARTIFACT_STILL = "artifact_still"
#: What may be read, and the question that it belongs to.
_QUESTION: dict[str, str] = {
    "artifact": "artifact",
    ARTIFACT_STILL: "artifact",
    "anchor": "anchor",
    "identity": "identity",
    "identity_enrolled": "identity",
}

#: How an ONNX tensor says where its numbers lie, if not in the file itself: an entry with the key "location", whose
#: length may be written in more bytes than it needs, before or behind its value.
_EXTERNAL_DATA = re.compile(rb"\n(?:\x08|\x88\x80{0,8}\x00)location")
_MAX_NAME = 100
_MAX_MANIFEST_BYTES = 1 << 20
_MAX_FILE_BYTES = 1 << 30
_REINSTALL = "install the bundle again, or write it again with `difffake fit`"

F32 = npt.NDArray[np.float32]


class ScoreSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How one named score is computed.

    ``kind``: ``logit`` (f's own), ``density`` (minus log density of the embedding), ``differential`` (minus log
    density of its difference to the anchor), ``distance`` (Euclidean distance to the anchor), ``supervised`` (a linear
    head on the embedding), ``supervised_difference`` (a linear head on its difference to the anchor).
    ``anchor``: ``none``, ``self`` (frames of the same clip) or ``given`` (frames known to be the genuine person).
    ``frames``: with which of the anchor's frames a face is compared: with ``all``, and the mean taken, or with the
    ``nearest`` in the embedding, which has about the same pose and expression.
    ``embedding``: whose embedding it is: the extractor's (``artifact``) or the identity network's (``identity``).
    ``density``, ``head``: which mixture or head of the bundle; ``minus_anchor_mean``: subtract these frames' score.
    """

    evidence: Literal["artifact", "anchor", "identity"]
    kind: Literal["logit", "density", "differential", "distance", "supervised", "supervised_difference"]
    anchor: Literal["none", "self", "given"] = "none"
    frames: Literal["all", "nearest"] = "all"
    embedding: Literal["artifact", "identity"] = "artifact"
    density: str | None = None
    head: str | None = None
    combination: Combination = Combination.SIGNED
    l2: bool = False
    minus_anchor_mean: bool = False

    @property
    def is_taught(self) -> bool:
        """Whether a head reads it, which labels have taught."""
        return self.kind in ("supervised", "supervised_difference")


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the bundle: its SHA-256 (hex) and its size."""

    sha256: str
    size_bytes: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a bundle is; see the module's docstring."""

    format: int
    name: str
    backbone: str
    side_px: int
    dim: int
    identity_dim: int = 0
    eye_distance: float
    normalisation: str
    scores: dict[str, ScoreSpec]
    evidence: dict[str, str]
    files: dict[str, FileEntry]
    created: str
    git_revision: str
    licence: str
    training: dict[str, Any]

    def readings(self, *, is_still: bool) -> dict[str, str]:
        """Evidence -> the score that is read, of one still picture or of video: composites and retouching are another
        threat than swap tools, and a bundle may read `artifact` of either by another score."""
        readings = {name: score for name, score in self.evidence.items() if name != ARTIFACT_STILL}
        if is_still and ARTIFACT_STILL in self.evidence:
            readings["artifact"] = self.evidence[ARTIFACT_STILL]
        return readings

    @property
    def model_id(self) -> str:
        """Name and a digest of all files: two models with one id give the same scores."""
        digest = hashlib.sha256()
        for name, entry in sorted(self.files.items()):
            digest.update(f"{name}:{entry.sha256}\n".encode())
        return f"{self.name}-{digest.hexdigest()[:12]}"


@dataclass(frozen=True, slots=True)
class Projection:
    """A linear map of the embedding: ``(e - mean) @ matrix``; ``mean (D,)``, ``matrix (D, P)`` float32."""

    mean: F32
    matrix: F32

    def __call__(self, embedding: F32) -> F32:
        """Map ``(..., D)`` to ``(..., P)``."""
        projected: F32 = np.matmul(embedding - self.mean, self.matrix)
        return projected


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle in memory, checked. ``path`` is where its extractor lies, ``stamps`` by what the files of its networks
    are known again."""

    path: Path
    manifest: Manifest
    densities: dict[str, GaussianMixture]
    calibrations: dict[str, Calibration]
    projection: Projection | None = None
    heads: dict[str, LinearHead] = field(default_factory=dict)
    stamps: dict[str, _Stamp] = field(default_factory=dict, compare=False)

    @property
    def engine_path(self) -> Path:
        """The extractor's ONNX file."""
        return self.path / EXTRACTOR

    @property
    def identity_path(self) -> Path | None:
        """The identity network's ONNX file, where the bundle has one."""
        return self.path / IDENTITY if IDENTITY in self.manifest.files else None

    @property
    def model_id(self) -> str:
        """Name and digest, as every verdict carries it."""
        return self.manifest.model_id

    @classmethod
    def load(cls, path: str | Path | None = None) -> Bundle:
        """Read a bundle and check all of it; None loads the one that is shipped.

        Raises:
            BundleError: missing, damaged, made for another version, or not consistent in itself.
        """
        path = default_bundle_path() if path is None else Path(path)
        try:
            manifest = _read_manifest(path)
            stamps = {name: _stamp(path / name) for name in (EXTRACTOR, IDENTITY) if name in manifest.files}
            contents = {name: _read_checked(path / name, entry) for name, entry in manifest.files.items()}
        except OSError as error:  # no right to read it, a name that no file can have, a disk that fails
            told = f"bundle {path}: cannot be read ({(error.strerror or str(error)).lower()})"
            raise BundleError(told, hint="check the path and its rights") from error
        try:
            densities = {
                name: GaussianMixture.from_arrays(arrays)
                for name, arrays in _split(_tensors(contents, DENSITY)).items()
            }
            calibrations = {
                name: Calibration.from_arrays(arrays)
                for name, arrays in _split(_tensors(contents, CALIBRATION)).items()
            }
            heads = {
                name: LinearHead.from_arrays(arrays)
                for name, arrays in (_split(_tensors(contents, HEAD)) if HEAD in contents else {}).items()
            }
        except DiffFakeError as error:
            raise BundleError(f"bundle {path.name}: {error}", hint=_REINSTALL) from error
        projection = None
        if PROJECTION in contents:
            arrays = _tensors(contents, PROJECTION)
            projection = _checked_projection(arrays, manifest.dim)
        bundle = cls(path, manifest, densities, calibrations, projection, heads, stamps)
        bundle._check()
        return bundle

    def check_unchanged(self) -> None:
        """Whether the networks are still those that were checked, asked when they are open: one of another bundle that
        took its place meanwhile would be read by the densities of this one.

        Raises:
            BundleError: they are not.
        """
        for name, stamp in self.stamps.items():
            if _stamp(self.path / name) != stamp:
                raise BundleError(
                    f"bundle {self.path.name}: {name} was replaced while the bundle was loaded", hint="load it again"
                )

    def _check(self) -> None:
        manifest = self.manifest
        if (manifest.identity_dim > 0) != (IDENTITY in manifest.files):
            raise BundleError(
                f"bundle {self.path.name}: identity_dim is {manifest.identity_dim}, but {IDENTITY} is "
                f"{'there' if IDENTITY in manifest.files else 'not there'}",
                hint=_REINSTALL,
            )
        # It names topics' records, file names and metrics.
        if not (0 < len(manifest.name) <= _MAX_NAME and manifest.name.isprintable()):
            raise BundleError(f"bundle {self.path.name}: its name is no name", hint=_REINSTALL)
        if not manifest.evidence:
            raise BundleError(f"bundle {self.path.name}: nothing in it is read as evidence", hint=_REINSTALL)
        if not 0 < manifest.eye_distance < 1:
            raise BundleError(
                f"bundle {self.path.name}: eye_distance is {manifest.eye_distance}, not a share of the crop's side",
                hint=_REINSTALL,
            )
        dims = {
            "artifact": manifest.dim if self.projection is None else self.projection.matrix.shape[1],
            "identity": manifest.identity_dim,
        }
        for name, spec in manifest.scores.items():
            if not dims[spec.embedding]:
                raise BundleError(f"bundle {self.path.name}: score {name} needs {IDENTITY}", hint=_REINSTALL)
            needs_anchor = spec.kind in ("differential", "distance") or spec.minus_anchor_mean
            if needs_anchor and spec.anchor == "none":
                raise BundleError(f"bundle {self.path.name}: score {name} needs an anchor", hint=_REINSTALL)
            if spec.embedding == "identity" and (
                spec.kind not in ("differential", "distance") or spec.anchor != "given"
            ):
                raise BundleError(
                    f"bundle {self.path.name}: score {name}: identity is a difference to a given anchor",
                    hint=_REINSTALL,
                )
            if spec.is_taught:
                self._check_head(name, spec, dims["artifact"])
            if spec.kind not in ("density", "differential"):
                continue
            if spec.density not in self.densities:
                raise BundleError(
                    f"bundle {self.path.name}: score {name} needs the density {spec.density}", hint=_REINSTALL
                )
            found = self.densities[spec.density].means.shape[1]
            if found != dims[spec.embedding]:
                raise BundleError(
                    f"bundle {self.path.name}: density {spec.density} has {found} dimensions, "
                    f"not the {dims[spec.embedding]} of the embedding",
                    hint=_REINSTALL,
                )
        still = manifest.scores.get(manifest.evidence.get(ARTIFACT_STILL, ""))
        if still is not None and (still.evidence != "artifact" or still.anchor != "none"):
            raise BundleError(
                f"bundle {self.path.name}: a still picture cannot be read by {manifest.evidence[ARTIFACT_STILL]}",
                hint=_REINSTALL,
            )
        for evidence, score in self.manifest.evidence.items():
            read = manifest.scores.get(score)
            if evidence not in _QUESTION or (read is not None and read.evidence != _QUESTION[evidence]):
                raise BundleError(
                    f"bundle {self.path.name}: {score} is no score of the evidence {evidence}", hint=_REINSTALL
                )
            if read is None or score not in self.calibrations:
                raise BundleError(
                    f"bundle {self.path.name}: evidence {evidence} names {score}, which is not there or not calibrated",
                    hint=_REINSTALL,
                )

    def _check_head(self, name: str, spec: ScoreSpec, dim: int) -> None:
        head = self.heads.get(str(spec.head))
        if head is None:
            raise BundleError(f"bundle {self.path.name}: score {name} needs the head {spec.head}", hint=_REINSTALL)
        # Only what a head can do: read faces alone or against a given anchor.
        anchors = ("none", "given") if spec.kind == "supervised" else ("given",)
        if spec.embedding != "artifact" or head.weights.shape != (dim,) or spec.anchor not in anchors:
            raise BundleError(
                f"bundle {self.path.name}: head {spec.head} of {head.weights.shape[0]} dimensions cannot give the "
                f"score {name} of embeddings of {dim}",
                hint=_REINSTALL,
            )


def default_bundle_path() -> Path:
    """Where the shipped bundle lies: a folder inside the installed package."""
    return Path(str(resources.files("difffake"))) / "models" / "default"


def save_bundle(
    path: Path,
    *,
    extractor: bytes,
    identity: bytes | None = None,
    densities: Mapping[str, GaussianMixture],
    calibrations: Mapping[str, Calibration],
    projection: Projection | None = None,
    heads: Mapping[str, LinearHead] | None = None,
    **fields: Any,
) -> Bundle:
    """Write a bundle into the folder ``path`` and read it back through all checks.

    One that is there is replaced file by file, each whole: who runs on it keeps what it has opened. The manifest comes
    last, so that what was interrupted is refused as damaged. ``fields``: Manifest's, but ``format`` and ``files``.

    Raises:
        OutputError: it cannot be written.
    """
    contents = {
        EXTRACTOR: extractor,
        DENSITY: save_tensors(_join({name: m.to_arrays() for name, m in densities.items()})),
        CALIBRATION: save_tensors(_join({name: c.to_arrays() for name, c in calibrations.items()})),
    }
    if identity is not None:
        contents[IDENTITY] = identity
    if projection is not None:
        contents[PROJECTION] = save_tensors({"mean": projection.mean, "matrix": projection.matrix})
    if heads:
        contents[HEAD] = save_tensors(_join({name: head.to_arrays() for name, head in heads.items()}))
    files = {
        name: FileEntry(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        for name, data in contents.items()
    }
    manifest = msgspec.convert({"format": FORMAT, "files": files, **fields}, Manifest)
    for name, data in contents.items():
        write_whole(path / name, data)
    write_whole(path / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    for name in _FILES - {MANIFEST, *contents}:
        (path / name).unlink(missing_ok=True)
    return Bundle.load(path)


def check_bundle_target(path: Path, *, overwrite: bool = False) -> None:
    """Whether a bundle may be written to the folder ``path``, asked before the work of hours whose result it is.

    Raises:
        OutputError: something is there already, and is no bundle or is not to be replaced; or it cannot be written.
    """
    try:
        there = {file.name for file in path.iterdir()} if path.exists() else set()
        parent = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise not_written(str(path), error) from error
    if MANIFEST not in there and there - _FILES:
        raise OutputError(
            f"{path}: a folder that holds no bundle, but other files", hint="name a new folder with --out"
        )
    if there and not overwrite:
        raise OutputError(
            f"{path}: a bundle is there already", hint="name a new folder with --out, or replace it with --overwrite"
        )


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    if not file.is_file():
        raise BundleError(
            f"no model bundle at {path}",
            hint=f"give the folder that holds {MANIFEST}, or leave --bundle out for the shipped model",
        )
    if file.stat().st_size > _MAX_MANIFEST_BYTES:
        raise BundleError(f"bundle {path.name}: {MANIFEST} is over 1 MiB", hint=_REINSTALL)
    data = _read(file, _MAX_MANIFEST_BYTES)
    try:
        version = msgspec.json.decode(data, type=dict[str, Any]).get("format")
        if version not in _READABLE:
            raise BundleError(
                f"bundle {path.name} has format {version}, this version reads {' and '.join(map(str, _READABLE))}",
                hint="upgrade difffake, or take a bundle made for this version",
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"bundle {path.name}: {MANIFEST} is damaged: {error}", hint=_REINSTALL) from error
    required = {EXTRACTOR, DENSITY, CALIBRATION}
    known = required | {PROJECTION, IDENTITY, HEAD}
    if not required <= set(manifest.files) <= known:
        raise BundleError(
            f"bundle {path.name} lists the files {sorted(manifest.files)}, not {sorted(required)}",
            hint=_REINSTALL,
        )
    return manifest


def _read_checked(file: Path, entry: FileEntry) -> bytes:
    if not file.is_file():
        raise BundleError(f"bundle file {file.name} is missing", hint=_REINSTALL)
    size = file.stat().st_size
    if size != entry.size_bytes or size > _MAX_FILE_BYTES:
        raise BundleError(
            f"bundle file {file.name} has {size} bytes, the manifest says {entry.size_bytes}", hint=_REINSTALL
        )
    data = _read(file, size)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise BundleError(f"bundle file {file.name} is damaged: its SHA-256 is not the manifest's", hint=_REINSTALL)
    if file.suffix == ".onnx" and _EXTERNAL_DATA.search(data):
        raise BundleError(
            f"bundle file {file.name} keeps weights in another file, which no hash covers", hint=_REINSTALL
        )
    return data


def _read(file: Path, most: int) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(most + 1)  # it may grow meanwhile
    except OSError as error:
        raise BundleError(
            f"bundle file {file.name} cannot be read: {error.strerror}", hint="check its rights"
        ) from error


#: Device, number, size and time of change of a file.
_Stamp = tuple[int, int, int, int]


def _stamp(file: Path) -> _Stamp:
    try:
        status = file.stat()
    except OSError:  # told by who reads it
        return 0, 0, 0, 0
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _tensors(contents: Mapping[str, bytes], name: str) -> dict[str, npt.NDArray[Any]]:
    try:
        tensors: dict[str, npt.NDArray[Any]] = load_tensors(contents[name])
    except (SafetensorError, KeyError, ValueError) as error:
        raise BundleError(f"bundle file {name} is no safetensors file: {error}", hint=_REINSTALL) from error
    return tensors


def _checked_projection(arrays: Mapping[str, npt.NDArray[Any]], dim: int) -> Projection:
    mean, matrix = arrays.get("mean"), arrays.get("matrix")
    if mean is None or matrix is None or mean.shape != (dim,) or matrix.ndim != 2 or matrix.shape[0] != dim:
        raise BundleError(f"bundle file {PROJECTION} does not fit embeddings of {dim}", hint=_REINSTALL)
    with np.errstate(over="ignore"):
        mean, matrix = mean.astype(np.float32), matrix.astype(np.float32)
    if not (np.isfinite(mean).all() and np.isfinite(matrix).all()):
        raise BundleError(f"bundle file {PROJECTION} holds what is no finite number in float32", hint=_REINSTALL)
    return Projection(mean, matrix)


def _join(groups: Mapping[str, Mapping[str, npt.NDArray[Any]]]) -> dict[str, npt.NDArray[Any]]:
    return {f"{name}/{key}": np.asarray(a, order="C") for name, g in groups.items() for key, a in g.items()}


def _split(tensors: Mapping[str, npt.NDArray[Any]]) -> dict[str, dict[str, npt.NDArray[Any]]]:
    groups: dict[str, dict[str, npt.NDArray[Any]]] = {}
    for full, array in tensors.items():
        name, _, key = full.partition("/")
        groups.setdefault(name, {})[key] = array
    return groups
