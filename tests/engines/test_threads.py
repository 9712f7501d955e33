"""Where threads cannot be started, that is told before a runtime waits for them for ever."""

from __future__ import annotations

import _thread
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_extractor

from difffake.errors import OutOfMemoryError
from engines.onnx import OnnxEngine
from engines.threads import check_threads


@pytest.fixture
def few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two more and no third."""
    start, left = _thread.start_new_thread, [2]

    def start_or_not(*arguments: Any) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("can't start new thread")
        return start(*arguments)

    monkeypatch.setattr("engines.threads._thread.start_new_thread", start_or_not)


@pytest.mark.usefixtures("few_threads")
def test_too_few_threads_are_an_error_and_no_end_of_waiting(tmp_path: Path) -> None:
    """ONNX Runtime 1.32 joins those of its threads that it could start, before they are told to end."""
    path = tmp_path / "extractor.onnx"
    path.write_bytes(tiny_extractor())
    with pytest.raises(OutOfMemoryError, match="new thread") as short:
        OnnxEngine(path, threads=8)
    assert "--threads 1" in short.value.hint


@pytest.mark.usefixtures("few_threads")
def test_one_thread_is_the_callers_own() -> None:
    check_threads(1)


@pytest.mark.parametrize("threads", [0, 2, 8])
def test_threads_that_were_tried_are_gone(threads: int) -> None:
    before = _thread._count()
    check_threads(threads)
    until = time.monotonic() + 30
    while _thread._count() > before and time.monotonic() < until:
        threading.Event().wait(0.01)
    assert _thread._count() <= before
