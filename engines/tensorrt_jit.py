"""What TensorRT-RTX does differently: it compiles kernels on the card that runs them, when they are first used.

- Kernels for our batch sizes are compiled at once, not in the background: else a graph would hold the slow ones that
  stand in until then, for good.
- What was compiled is kept in the user's cache folder, so that the next start need not compile.
- It could capture graphs by itself; that is off, because `DeviceEngine` captures.

Full TensorRT has compiled everything when it built the plan, and needs none of this.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from difffake.errors import EngineError

_MAX_CACHE_BYTES = 256 << 20


class JitCache:
    """The compiled kernels of one plan, shared by its execution contexts. Made by `of`.

    Args:
        api: ``tensorrt_rtx``.
        engine: the deserialised engine.
        file: where the kernels are kept. TensorRT-RTX itself refuses what another build or card compiled.
    """

    def __init__(self, api: Any, engine: Any, file: Path) -> None:
        self._engine, self._file = engine, file
        self._config = engine.create_runtime_config()
        self._cache = self._config.create_runtime_cache()
        self._known = _read(file)
        if self._known and not self._cache.deserialize(self._known):
            self._known = b""
        if not self._config.set_runtime_cache(self._cache):
            raise EngineError("TensorRT-RTX takes no cache of kernels", hint=f"delete {file}, then report it")
        self._config.dynamic_shapes_kernel_specialization_strategy = api.DynamicShapesKernelSpecializationStrategy.EAGER
        self._config.cuda_graph_strategy = api.CudaGraphStrategy.DISABLED

    @classmethod
    def of(cls, api: ModuleType, engine: Any, plan: bytes) -> Self | None:
        """The cache of a plan under TensorRT-RTX, None under full TensorRT."""
        if not hasattr(api, "DynamicShapesKernelSpecializationStrategy"):
            return None
        name = hashlib.sha256(plan).hexdigest()[:32]
        return cls(api, engine, cache_folder() / f"{name}.kernels")

    def make_context(self) -> Any:
        """An execution context, or None where memory is full."""
        return self._engine.create_execution_context(self._config)

    def save(self) -> None:
        """Keep what was compiled since the start.

        Raises:
            OSError: the folder cannot be written.
        """
        found = self._cache.serialize()
        data = bytes(found) if found is not None else b""
        if not data or data == self._known or len(data) > _MAX_CACHE_BYTES:
            return
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = self._file.with_suffix(f".{os.getpid()}")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
        partial.replace(self._file)


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/difffake/tensorrt_rtx``, by default under ``~/.cache``."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if root.startswith("/") else Path.home() / ".cache") / "difffake" / "tensorrt_rtx"


def _read(file: Path) -> bytes:
    """What is kept; nothing where it is absent, another user's, or too large. It is code: only our own is run."""
    try:
        with file.open("rb") as opened:
            if os.fstat(opened.fileno()).st_uid != os.getuid():
                return b""
            data = opened.read(_MAX_CACHE_BYTES + 1)
    except OSError:
        return b""
    return data if len(data) <= _MAX_CACHE_BYTES else b""
