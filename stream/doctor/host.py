"""What this machine is: cores and the instructions that matter, memory, limits of its container, space, files."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from pathlib import Path

from stream.container import Container, container_limits, own_cores, text_of
from stream.doctor.report import Check, State

_GIB, _MIB = 1 << 30, 1 << 20
#: A worker with the shipped model takes about this much, with room for a few streams.
_MEMORY_BYTES = _GIB
_SPACE_BYTES = 200 * _MIB
_OPEN_FILES = 1024
#: Instruction set -> any of these flags of /proc/cpuinfo, x86 and ARM.
_INSTRUCTIONS = {
    "AVX2": {"avx2"},
    "AVX-512": {"avx512f"},
    "VNNI": {"avx512_vnni", "avx_vnni"},
    "bf16": {"avx512_bf16", "amx_bf16", "bf16"},
    "AMX": {"amx_tile"},
    "dot product": {"asimddp"},
    "i8mm": {"i8mm"},
}


def host_checks(root: Path = Path("/")) -> list[Check]:
    """Everything about the machine; ``root`` is where ``proc`` and ``sys`` are looked for."""
    container = container_limits(root)
    return [
        Check("system", f"{platform.system()} {platform.release()}, Python {platform.python_version()}"),
        _cpu(root),
        _cores(container),
        _memory(root, container),
        _temporary(),
        _open_files(),
    ]


def _cpu(root: Path) -> Check:
    found: dict[str, str] = {}
    for line in text_of(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip().lower(), value.strip())
    model = found.get("model name") or platform.processor() or platform.machine()
    flags = set((found.get("flags") or found.get("features") or "").split())
    if not flags:
        return Check("processor", model)
    has = [name for name, any_of in _INSTRUCTIONS.items() if any_of & flags]
    value = f"{model}: {', '.join(has) or 'none of the instructions that make networks fast'}"
    if {"VNNI", "AMX", "dot product", "i8mm"} & set(has):
        return Check("processor", value)
    return Check(
        "processor", value, State.NOTE, "int8 and bf16 gain little here; a processor with VNNI or AMX runs them"
    )


def _cores(container: Container) -> Check:
    there = os.cpu_count() or 1
    usable = own_cores()
    value = f"{usable} of {there}" if usable < there else str(there)
    if container.cores is None or container.cores >= usable:
        return _busy(value, usable)
    threads = max(1, int(container.cores))
    return Check(
        "cores",
        f"{value}, {container.cores:g} by the container's limit",
        State.NOTE,
        f"a worker heeds that; give other commands --threads {threads}: a network takes {usable}, "
        "which the limit then stops in turn",
    )


def _busy(value: str, usable: int) -> Check:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load <= usable:
        return Check("cores", value)
    return Check(
        "cores", f"{value}, and {load:.0f} processes want them", State.NOTE, "measure speeds when the machine is idle"
    )


def _memory(root: Path, container: Container) -> Check:
    table = dict(line.partition(":")[::2] for line in text_of(root / "proc/meminfo").splitlines())
    kib = {
        name: int(value.split()[0])
        for name, value in table.items()
        if value.split()[:1] and value.split()[0].isdecimal()
    }
    if "MemTotal" not in kib:
        return Check("memory", "unknown on this system")
    total, free = kib["MemTotal"] << 10, kib.get("MemAvailable", kib["MemTotal"]) << 10
    value = f"{total / _GIB:.1f} GiB, {free / _GIB:.1f} free"
    if container.memory_bytes is not None and container.memory_bytes < total:
        left = container.memory_bytes - (container.memory_used_bytes or 0)
        value += f"; {container.memory_bytes / _GIB:.1f} GiB by the container's limit, {left / _GIB:.1f} left"
        free = min(free, left)
    if free >= _MEMORY_BYTES:
        return Check("memory", value)
    return Check("memory", value, State.NOTE, "a worker takes about 1 GiB: stop something else, or raise the limit")


def _temporary() -> Check:
    try:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Check(
            "temporary files", f"none: {error.strerror or error}", State.NOTE, "set TMPDIR to a writable folder"
        )
    value = f"{folder}, {free / _GIB:.1f} GiB free"
    if free >= _SPACE_BYTES:
        return Check("temporary files", value)
    return Check("temporary files", value, State.NOTE, "make room, or set TMPDIR to a folder with more")


def _open_files() -> Check:
    try:
        import resource
    except ImportError:
        return Check("open files", "no limit on this system")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY or limit >= _OPEN_FILES:
        return Check("open files", "unlimited" if limit == resource.RLIM_INFINITY else f"up to {limit}")
    return Check(
        "open files", f"up to {limit}", State.NOTE, f"ulimit -n {_OPEN_FILES}: every broker and camera takes some"
    )
