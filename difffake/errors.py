"""One root for every error that a user can meet; each carries a hint that says what to do.

Leaves also inherit the builtin that fits, so that callers who know nothing of DiffFake can catch them.
Every leaf has its own ``exit_code``: the command line returns it, scripts can tell the cases apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar


class DiffFakeError(Exception):
    """What went wrong (``str(error)``) and what to do about it (``error.hint``)."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint

    def __reduce__(self) -> tuple[Callable[..., DiffFakeError], tuple[type[DiffFakeError], str, str]]:
        # An exception is made anew from its arguments alone, without the hint: that failed, and a
        # `multiprocessing.Pool` whose worker raised it waited for ever.
        return _made_anew, (type(self), str(self), self.hint)


def _made_anew(kind: type[DiffFakeError], message: str, hint: str) -> DiffFakeError:
    return kind(message, hint=hint)


class ArgumentError(DiffFakeError, ValueError, TypeError):
    """What a program hands in that is of another kind than it should be, or out of bounds."""

    exit_code = 9


class MediaNotFoundError(DiffFakeError, FileNotFoundError):
    """A path or URL that does not exist or cannot be opened."""

    exit_code = 10


class MediaEmptyError(DiffFakeError, ValueError):
    """A file of zero bytes, or a video without a single frame."""

    exit_code = 11


class MediaFormatError(DiffFakeError, ValueError):
    """Bytes that are no image and no video, whatever the file is called."""

    exit_code = 12


class MediaTruncatedError(DiffFakeError, ValueError):
    """A video that breaks off before anything could be decoded, or in the middle."""

    exit_code = 13


class NoVideoError(DiffFakeError, ValueError):
    """A container that holds sound, subtitles or data, but no picture."""

    exit_code = 14


class MediaEncryptedError(DiffFakeError, ValueError):
    """A video that is encrypted (DRM)."""

    exit_code = 15


class LimitExceededError(DiffFakeError, ValueError):
    """Decoded size, duration or count beyond a bound from the settings."""

    exit_code = 16


class NoFaceError(DiffFakeError, ValueError):
    """A video or image in which no face was found that can be scored."""

    exit_code = 17


class OutputError(DiffFakeError, OSError):
    """A result that cannot be written: no such folder, no right to, no space left."""

    exit_code = 18


class MediaChangedError(DiffFakeError, OSError):
    """A file that was written to, or replaced, while it was read."""

    exit_code = 19


class BundleError(DiffFakeError, ValueError):
    """A model bundle that is missing, damaged, or does not fit this version."""

    exit_code = 20


class EngineError(DiffFakeError, RuntimeError):
    """A compiled network that cannot be loaded or run on this host."""

    exit_code = 21


class DataError(DiffFakeError, ValueError):
    """Training or evaluation data that is missing, too small, or not in the expected layout."""

    exit_code = 22


class MissingExtraError(DiffFakeError, ImportError):
    """A feature whose optional packages are not installed."""

    exit_code = 23


class AnchorError(DiffFakeError, ValueError):
    """Footage that cannot be enrolled, or an anchor file that is damaged or does not fit."""

    exit_code = 24


class EngineHostError(EngineError):
    """This host cannot run an engine: no device or driver, a driver too old, a package absent, or a plan that was built
    for another TensorRT or another card. The next best engine may run."""

    exit_code = 25


class EngineFileError(EngineError, ValueError):
    """An engine's files are damaged, do not belong together, or hold another network than they should."""

    exit_code = 26


class DeviceLostError(EngineError):
    """The device ran out of memory or went away while it worked: the process must start again."""

    exit_code = 27


class ParityError(EngineError, ValueError):
    """A compiled network does not give the scores of the network that it was compiled from."""

    exit_code = 28


class OutOfMemoryError(DeviceLostError, MemoryError):
    """The host has no memory left for this process, or it may have no more: no fault of a file."""

    exit_code = 29


#: What libraries say where no memory is left, each in its own words; few of them raise `MemoryError`.
_NO_MEMORY = (
    "bad_alloc",  # C++
    "failed to allocate memory",  # ONNX Runtime, in a run
    "cannot allocate memory",  # the system
    "insufficient memory",  # OpenCV
    "failed to map segment",  # the loader of libraries
    "can't start new thread",  # also where there may be no more threads
)


def out_of_memory(error: BaseException) -> OutOfMemoryError | None:
    """What ``error`` is, where it says in whatever words that no memory is left; None where it does not."""
    if isinstance(error, OutOfMemoryError):
        return error
    text = " ".join(str(error).split())
    if not isinstance(error, MemoryError) and not any(words in text.lower() for words in _NO_MEMORY):
        return None
    what = "no thread can be started" if "new thread" in text else "out of memory"
    return OutOfMemoryError(
        f"{what}: {text[:200] or type(error).__name__}",
        hint="allow this process more memory and threads (the container's limits, ulimit -v and -u), or let it need "
        "less: --threads 1",
    )
