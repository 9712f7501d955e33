"""How much of the machine is ours, by files as the system has them."""

from __future__ import annotations

from pathlib import Path

import pytest
from system_files import tree

from stream import container
from stream.container import Container, container_limits, own_cores, usable_cores


def test_limits_of_cgroup_v2_are_those_of_the_narrowest_group(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/worker\n",
            "sys/fs/cgroup/pod/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/pod/memory.max": "max\n",
            "sys/fs/cgroup/pod/worker/cpu.max": "max 100000\n",
            "sys/fs/cgroup/pod/worker/memory.max": f"{1 << 30}\n",
            "sys/fs/cgroup/pod/worker/memory.current": f"{1 << 29}\n",
        },
    )
    assert container_limits(root) == Container(1.5, 1 << 30, 1 << 29)
    # As a container sees itself: its group is the root of what is mounted.
    (root / "proc/self/cgroup").write_text("0::/../../somewhere/on/the/host\n")
    tree(root, {"sys/fs/cgroup/cpu.max": "50000 100000", "sys/fs/cgroup/memory.max": "max"})
    assert container_limits(root) == Container(0.5)


def test_limits_of_cgroup_v1(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n1:name=systemd:/x\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes": "2147483648",
            "sys/fs/cgroup/memory/docker/1/memory.usage_in_bytes": "1000",
        },
    )
    assert container_limits(root) == Container(2.0, 1 << 31, 1000)


@pytest.mark.parametrize("text", ["", "0", "0::", "a:b:c:d\n\n::", "0::/\x00", "\xff\xfe"])
def test_no_limits_where_nothing_is_known(tmp_path: Path, text: str) -> None:
    tree(tmp_path, {"proc/self/cgroup": text, "sys/fs/cgroup/cpu.max": "none of this", "sys/fs/cgroup/memory.max": ""})
    assert container_limits(tmp_path) == Container()
    assert container_limits(tmp_path / "nothing") == Container()


@pytest.mark.parametrize(("quota", "cores"), [("max", 6), ("50000", 1), ("250000", 2), ("9900000", 6)])
def test_no_core_is_counted_whose_time_another_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr(container, "own_cores", lambda: 6)
    tree(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": f"{quota} 100000"})
    assert usable_cores(tmp_path) == cores


def test_of_this_machine() -> None:
    assert 1 <= usable_cores() <= own_cores()
