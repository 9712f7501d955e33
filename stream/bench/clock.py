"""Seconds on the wall and of the processor, and how much others used of it meanwhile: without that no figure is one."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_TICKS_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Spent:
    """What passed.

    Args:
        wall_s: on the wall.
        cpu_s: of the processor, by the processes that were asked for.
        others: cores that all others kept busy, on average; NaN where the system does not say.
    """

    wall_s: float
    cpu_s: float
    others: float

    def __add__(self, other: Spent) -> Spent:
        wall_s = self.wall_s + other.wall_s
        others = (self.others * self.wall_s + other.others * other.wall_s) / wall_s if wall_s else 0.0
        return Spent(wall_s, self.cpu_s + other.cpu_s, others)


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time, for this process or for ``pids``; `since` says what passed from an earlier one to this."""

    wall_s: float
    cpu_s: float
    machine_s: float

    @classmethod
    def now(cls, pids: tuple[int, ...] = ()) -> Self:
        """Now."""
        cpu_s = sum(map(process_s, pids)) if pids else time.process_time()
        return cls(time.perf_counter(), cpu_s, _machine_s())

    def since(self, before: Moment) -> Spent:
        """What passed since an earlier moment, of the same processes."""
        wall_s, cpu_s = self.wall_s - before.wall_s, self.cpu_s - before.cpu_s
        others = (self.machine_s - before.machine_s - cpu_s) / wall_s if wall_s else 0.0
        return Spent(wall_s, cpu_s, others)


def process_s(pid: int) -> float:
    """Seconds of the processor that a process has used so far; Linux only."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICKS_S


def resident_mib(pid: int) -> float:
    """Memory of a process; Linux only."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def _machine_s() -> float:
    try:
        user, nice, system, _, _, irq, softirq, steal = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    except (OSError, ValueError):
        return float("nan")
    return sum(map(int, (user, nice, system, irq, softirq, steal))) * _TICKS_S
