"""What a compiled engine was built from and for: ``manifest.json`` beside its files.

A plan that meets another driver, card or TensorRT fails late and in the runtime's own words. The manifest says before
a byte of the plan is loaded whether it belongs here, and which command makes one that does.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Self

import msgspec

from difffake.errors import EngineFileError, EngineHostError
from engines.contract import Precision
from engines.profile import BatchProfile, GpuKind, HardwareLevel, Network, PictureProfile
from engines.tensorrt_api import HostInfo

__all__ = [
    "MANIFEST",
    "PLAN",
    "BatchProfile",
    "Comparison",
    "EngineManifest",
    "FileDigest",
    "GpuKind",
    "HardwareLevel",
    "Network",
    "PictureProfile",
    "check",
    "check_host",
    "check_source",
    "read_file",
    "read_manifest",
    "write_manifest",
]

FORMAT = 1
MANIFEST = "manifest.json"
#: The compiled network in a TensorRT engine's folder.
PLAN = "engine.plan"

_MAX_MANIFEST_BYTES = 1 << 20
_MAX_FILE_BYTES = 1 << 31
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,80}")


class FileDigest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file's SHA-256 (hex) and size."""

    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Digest and size of a file's contents."""
        return cls(hashlib.sha256(data).hexdigest(), len(data))


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One step of a parity report: two ways of running the same network, on the same pictures.

    Attributes:
        reference: what is taken as right ("onnxruntime fp32").
        candidate: what is judged ("tensorrt fp16").
        pictures: how many were compared; 0 where the candidate could not run here.
        not_run: why it could not, or None.
        figures: name -> value, as the report names them (embedding cosine, nats, p-values).
        accepted: whether the gate was passed; None where nothing was judged.
    """

    reference: str
    candidate: str
    pictures: int
    not_run: str | None = None
    figures: dict[str, float | None] = {}
    accepted: bool | None = None


class EngineManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an engine is.

    Attributes:
        format: version of this record.
        kind: the folder's name, runtime and precision ("tensorrt-fp16", "openvino-int8").
        network: which network it is.
        runtime: the package that runs it ("tensorrt", "tensorrt_rtx", "openvino").
        runtime_version: that package's exact build.
        gpu: the card it was built on; None for a CPU, and for a plan that was built ahead of time.
        compute_capabilities: what a plan built ahead of time may run on; empty where the builder's own list holds.
        precision: what the network computes in.
        profile: batch sizes.
        pictures: of a detector, the sizes of its pictures.
        side_px, dim, has_logit: of a network that embeds faces; 0, 0 and False for the detector.
        source: the fp32 ONNX file that it was built from.
        graph: the converted ONNX that the builder got, where one was made.
        files: name -> digest of everything in the folder but this manifest.
        build_s: seconds that the build took.
        optimization_level: the builder's, 0 to 5; None where it has none.
        version_compatible: runs on newer builds of the same major version too.
        hardware_level: which other cards it runs on.
        parity: what was compared with what, and how near it came.
        created: UTC, ISO 8601.
    """

    format: int = FORMAT
    kind: str
    network: Network
    runtime: str
    runtime_version: str
    gpu: GpuKind | None = None
    compute_capabilities: tuple[str, ...] = ()
    precision: Precision
    profile: BatchProfile
    pictures: PictureProfile | None = None
    side_px: int
    dim: int
    has_logit: bool
    source: FileDigest
    graph: FileDigest | None = None
    files: dict[str, FileDigest]
    build_s: float
    optimization_level: int | None = None
    version_compatible: bool = False
    hardware_level: HardwareLevel = "none"
    parity: tuple[Comparison, ...] = ()
    created: str

    @property
    def accepted(self) -> bool:
        """Whether a parity gate judged this engine and none refused it."""
        judged = [step.accepted for step in self.parity if step.accepted is not None]
        return bool(judged) and all(judged)

    @property
    def rebuild(self) -> str:
        """The command that makes this engine anew."""
        return f"python build_engine.py --network {self.network} --kind {self.kind}"


def write_manifest(folder: Path, manifest: EngineManifest) -> None:
    """Write ``manifest.json`` into the folder, whole or not at all."""
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    partial = folder / (MANIFEST + ".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / MANIFEST)


def read_manifest(folder: Path) -> EngineManifest:
    """Read what ``folder`` says of its engine.

    Raises:
        EngineFileError: no manifest, too large, damaged, of a newer format, or naming files outside the folder.
    """
    again = "build the engine again: python build_engine.py"
    file = folder / MANIFEST
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise EngineFileError(f"no engine in {folder}: {MANIFEST}: {error.strerror}", hint=again) from error
    if len(data) > _MAX_MANIFEST_BYTES:
        raise EngineFileError(f"{file} is over 1 MiB: no manifest of an engine", hint=again)
    try:
        version = msgspec.json.decode(data, type=_Version).format
        if version > FORMAT:
            raise EngineFileError(
                f"{file} has format {version}, this version reads up to {FORMAT}",
                hint=f"upgrade difffake, or {again}",
            )
        manifest = msgspec.json.decode(data, type=EngineManifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EngineFileError(f"{file} is damaged: {error}", hint=again) from error
    profile = manifest.profile
    if not 1 <= profile.min <= profile.opt <= profile.max:
        raise EngineFileError(f"{file} is damaged: batches of {profile.min} to {profile.max}", hint=again)
    # An engine that runs the bundle's own ONNX in another precision has a manifest and nothing else.
    bare = not manifest.runtime.startswith("tensorrt")
    if not (bare or PLAN in manifest.files) or not all(_FILE_NAME.fullmatch(name) for name in manifest.files):
        raise EngineFileError(f"{file} is damaged: its list of files", hint=again)
    return manifest


class _Version(msgspec.Struct):
    format: int


def check(
    manifest: EngineManifest, folder: Path, *, onnx_sha256: str | None, host: HostInfo, device: int = 0
) -> dict[str, bytes]:
    """Check an engine against the bundle and the host, then read its files.

    Args:
        onnx_sha256: hex digest of the network that it should be; None asks for no particular one.
        host: what this machine has, see `engines.tensorrt_api.host_info`.
        device: number of the GPU that shall run it.

    Returns:
        name -> contents, of all files of the engine.

    Raises:
        EngineFileError: for another network, or a file is missing, truncated or altered.
        EngineHostError: for another TensorRT or another card, or none is here.
    """
    check_source(manifest, onnx_sha256)
    check_host(manifest, host, device)
    return {name: read_file(manifest, folder, name) for name in manifest.files}


def check_source(manifest: EngineManifest, onnx_sha256: str | None) -> None:
    """Refuse an engine that was built from another network than the bundle's.

    Raises:
        EngineFileError: the digests differ.
    """
    if onnx_sha256 is not None and manifest.source.sha256 != onnx_sha256:
        raise EngineFileError(
            f"this {manifest.kind} engine was built from another {manifest.network} "
            f"(ONNX {manifest.source.sha256[:12]}, the bundle has {onnx_sha256[:12]})",
            hint=f"build one from this bundle: {manifest.rebuild} --bundle DIR",
        )


def check_host(manifest: EngineManifest, host: HostInfo, device: int = 0) -> None:
    """Refuse an engine that this machine cannot run. Engines for a CPU pass: their runtime judges them itself.

    Raises:
        EngineHostError: TensorRT is absent or of another build, there is no GPU, or it is another one.
    """
    if not manifest.runtime.startswith("tensorrt"):
        return
    _check_runtime(manifest, host)
    if host.problem is not None or not host.gpus:
        raise EngineHostError(
            f"a {manifest.kind} engine needs an NVIDIA GPU: {host.problem or 'there is none'}",
            hint=host.hint or "take another engine: --engine auto",
        )
    if not 0 <= device < len(host.gpus):
        raise EngineHostError(
            f"there is no GPU {device}, only {len(host.gpus)}", hint="number the GPUs from 0, see `difffake doctor`"
        )
    gpu = host.gpus[device]
    if not _fits(manifest, gpu.name, gpu.compute_capability):
        built = "for " + ", ".join(manifest.compute_capabilities)
        if manifest.gpu is not None:
            built = f"on {manifest.gpu.name} (compute capability {manifest.gpu.compute_capability})"
        raise EngineHostError(
            f"this {manifest.kind} engine was built {built}; GPU {device} is {gpu.name} ({gpu.compute_capability})",
            hint=f"build it on this machine: {manifest.rebuild}",
        )


def _check_runtime(manifest: EngineManifest, host: HostInfo) -> None:
    here = host.runtimes.get(manifest.runtime)
    package = manifest.runtime.replace("_", "-") + "-cu13"
    if here is None:
        raise EngineHostError(
            f"{manifest.runtime} is not installed, which runs this {manifest.kind} engine",
            hint=f"pip install {package}=={manifest.runtime_version}, or take another engine: --engine auto",
        )
    same = here == manifest.runtime_version
    if manifest.version_compatible and not same:
        same = _numbers(here)[:1] == _numbers(manifest.runtime_version)[:1] and _numbers(here) >= _numbers(
            manifest.runtime_version
        )
    if not same:
        raise EngineHostError(
            f"this {manifest.kind} engine was built by {manifest.runtime} {manifest.runtime_version}, "
            f"here is {here}: plans belong to one build",
            hint=f"build it again: {manifest.rebuild}; or pip install {package}=={manifest.runtime_version}",
        )


def _fits(manifest: EngineManifest, name: str, compute_capability: str) -> bool:
    if manifest.gpu is None:
        # Without a list the builder's own holds, which grows with its releases: the runtime judges.
        return not manifest.compute_capabilities or compute_capability in manifest.compute_capabilities
    match manifest.hardware_level:
        case "ampere_plus":
            return _numbers(compute_capability) >= (8, 0)
        case "same_compute_capability":
            return compute_capability == manifest.gpu.compute_capability
        case _:
            return (name, compute_capability) == (manifest.gpu.name, manifest.gpu.compute_capability)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def read_file(manifest: EngineManifest, folder: Path, name: str) -> bytes:
    """Read one file of the engine and check it against the manifest.

    Raises:
        EngineFileError: missing, truncated or altered, or over 2 GiB.
    """
    entry, hint = manifest.files[name], f"build the engine again: {manifest.rebuild}"
    if not 0 <= entry.size_bytes <= _MAX_FILE_BYTES:
        raise EngineFileError(f"{name} has {entry.size_bytes} bytes after the manifest, the most are 2 GiB", hint=hint)
    try:
        with (folder / name).open("rb") as file:
            data = file.read(entry.size_bytes + 1)
    except OSError as error:
        raise EngineFileError(f"cannot read the engine's {name}: {error.strerror}", hint=hint) from error
    if len(data) != entry.size_bytes:
        what = "truncated" if len(data) < entry.size_bytes else "too long"
        raise EngineFileError(f"the engine's {name} is {what}: {entry.size_bytes} bytes were built", hint=hint)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise EngineFileError(f"the engine's {name} is damaged: its SHA-256 is not the manifest's", hint=hint)
    return data
