"""Sessions of ONNX Runtime on the CPU, which work in memory that they share.

By itself a session keeps an arena of its own, as large as its largest run ever needed, and takes one block of it for
each size of input. Networks that take turns on a thread then hold the sum of what each needs, and more as sizes come in
another order. Sessions from here share an arena for the whole process, which grows by what is asked for and no further:
a thread's networks hold what the largest of them needs. What it holds it keeps, also when sessions are closed.
"""

from __future__ import annotations

import contextlib
from functools import cache
from pathlib import Path

import onnxruntime as ort

from difffake.errors import EngineError, out_of_memory
from engines.threads import check_threads

#: Of an arena: extended by what is asked for, where the default doubles it.
_AS_REQUESTED = 1


def open_session(path: Path, threads: int, *, what: str, hint: str) -> ort.InferenceSession:
    """Load an ONNX file.

    Args:
        path: the file.
        threads: inside one run; 0 lets the runtime take every core.
        what, hint: the network in an error, and what to do about it.

    Raises:
        EngineError: the runtime cannot load it.
        OutOfMemoryError: there is no memory for it, or for so many threads.
    """
    _share_memory()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.use_env_allocators", "1")
    # A worker waits for frames most of the time: spinning threads would take the cores from the decoder.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    check_threads(threads)
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime raises a dozen private classes; all mean "cannot load"
        if (no_memory := out_of_memory(error)) is not None:
            raise no_memory from error
        raise EngineError(f"ONNX Runtime cannot load {what}: {first_line(error)}", hint=hint) from error


def first_line(error: Exception) -> str:
    """Of what the runtime says, which may go on for pages."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


@cache
def _share_memory() -> None:
    info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    # Where the application has registered one already, that is shared.
    with contextlib.suppress(Exception):
        ort.create_and_register_allocator(info, ort.OrtArenaCfg({"arena_extend_strategy": _AS_REQUESTED}))
