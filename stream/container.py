"""How much of the machine is this process's: the cores that it may run on, and the limits of its control group."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Larger limits than this are how cgroup v1 says "none".
_NO_LIMIT_BYTES = 1 << 60
_MOST_CHARACTERS = 4 << 20


@dataclass(frozen=True, slots=True)
class Container:
    """Limits of the control group that this process is in; None: no limit.

    Args:
        cores: CPU time per time.
        memory_bytes: the most it may hold.
        memory_used_bytes: what it holds now.
    """

    cores: float | None = None
    memory_bytes: int | None = None
    memory_used_bytes: int | None = None


def own_cores() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_cores(root: Path = Path("/")) -> int:
    """Those of which it gets the time: no more whole ones than its control group allows, and at least one."""
    limit = container_limits(root).cores
    return own_cores() if limit is None else max(1, min(own_cores(), int(limit)))


def container_limits(root: Path = Path("/")) -> Container:
    """The narrowest limits on the way from this process's control group to the top, of cgroup v2 or v1."""
    cores: list[float] = []
    memory: list[tuple[int, int | None]] = []
    for group in _groups(root, "cpu"):
        quota = text_of(group / "cpu.max").split() or [
            text_of(group / "cpu.cfs_quota_us").strip(),
            text_of(group / "cpu.cfs_period_us").strip(),
        ]
        if len(quota) == 2 and all(part.isdecimal() for part in quota) and int(quota[1]):
            cores.append(int(quota[0]) / int(quota[1]))
    for group in _groups(root, "memory"):
        limit = _number(group / "memory.max", group / "memory.limit_in_bytes")
        if limit is not None and limit < _NO_LIMIT_BYTES:
            memory.append((limit, _number(group / "memory.current", group / "memory.usage_in_bytes")))
    narrowest = min(memory, key=lambda one: one[0], default=(None, None))
    return Container(min(cores, default=None), *narrowest)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups that bind this process, the innermost first."""
    top = root / "sys/fs/cgroup"
    for line in text_of(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number != "0" and controller not in controllers.split(","):
            continue
        mount = top if number == "0" else top / controller
        # In a container the path is often that of the host, which is not there: the mount itself is the group then.
        inner = mount / path.strip("/")
        yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(mount) and folder.is_dir())


def text_of(path: Path) -> str:
    """Of a file of the system; nothing where there is none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_MOST_CHARACTERS)
    except OSError:
        return ""


def _number(*paths: Path) -> int | None:
    return next((int(text) for path in paths if (text := text_of(path).strip()).isdecimal()), None)
