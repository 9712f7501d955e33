"""What this host has for TensorRT: a driver, cards, or the reason why there is none."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from engines.tensorrt_api import Gpu, host_info

runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
OK, OLD = runtime.cudaError_t.cudaSuccess, runtime.cudaError_t.cudaErrorInsufficientDriver
CARDS = (("NVIDIA H100 80GB HBM3", 9, 0, 80 << 30), ("NVIDIA L4", 8, 9, 24 << 30))


def pretend(
    monkeypatch: pytest.MonkeyPatch,
    *,
    driver: int,
    status: object = OK,
    cards: tuple[tuple[str, int, int, int], ...] = (),
) -> None:
    """Let the driver answer otherwise than the one of this machine, which may have none."""

    def properties(index: int) -> tuple[object, object]:
        name, major, minor, memory = cards[index]
        found = runtime.cudaDeviceProp()
        found.name, found.major, found.minor = name.encode().ljust(256, b"\0"), major, minor
        found.totalGlobalMem = memory
        return OK, found

    monkeypatch.setattr(runtime, "cudaDriverGetVersion", lambda: (OK, driver))
    monkeypatch.setattr(runtime, "cudaGetDeviceCount", lambda: (status, len(cards) if status == OK else None))
    monkeypatch.setattr(runtime, "cudaGetDeviceProperties", properties)


def test_cards_are_numbered_as_cuda_numbers_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, driver=13010, cards=CARDS)
    host = host_info()
    assert (host.driver, host.problem) == ("13.1", None)
    assert host.gpus == (Gpu(CARDS[0][0], "9.0", 80 << 30), Gpu("NVIDIA L4", "8.9", 24 << 30))


@pytest.mark.parametrize(
    ("driver", "status", "problem", "hint"),
    [
        (0, OK, "no NVIDIA driver", "difffake[tensorrt]"),
        (11080, OLD, "driver version is insufficient", "up to 11.8: update it"),
        (13010, runtime.cudaError_t.cudaErrorNoDevice, "no CUDA-capable device", "CUDA_VISIBLE_DEVICES"),
        (13010, OK, "sees no GPU", "nvidia-smi"),
    ],
)
def test_says_why_no_card_can_be_used(
    monkeypatch: pytest.MonkeyPatch, driver: int, status: object, problem: str, hint: str
) -> None:
    pretend(monkeypatch, driver=driver, status=status)
    host = host_info()
    assert host.gpus == ()
    assert problem in str(host.problem)
    assert hint in str(host.hint)


def test_a_driver_that_fails_in_its_own_way_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> tuple[object, object]:
        raise RuntimeError("Function 'cudaDriverGetVersion' not found")

    monkeypatch.setattr(runtime, "cudaDriverGetVersion", broken)
    assert "cannot be asked: Function" in str(host_info().problem)


def test_without_the_package_it_says_which_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    host = host_info()
    assert "cuda-bindings cannot be imported" in str(host.problem)
    assert "pip install cuda-bindings" in str(host.hint)


def test_a_tensorrt_that_does_not_load_or_is_too_old_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.tensorrt_api.importlib.util.find_spec", lambda _: object())
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.11.0.33"))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    assert host_info().runtimes == {}
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.12.0.36"))
    assert host_info().runtimes == {"tensorrt": "10.12.0.36"}
