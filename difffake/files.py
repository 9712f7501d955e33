"""Results on disk, written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from difffake.errors import OutputError
from difffake.folder import MEDIA_SUFFIXES


def write_whole(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write a file by another one beside it, so that nobody ever reads half of it; its folders are made.

    A link is followed. What is no regular file (``/dev/null``, a pipe) is written as it is: a rename would put a
    regular file in its place.

    Args:
        private: a new file is its owner's alone. An old one keeps its rights in any case.

    Raises:
        OutputError: it cannot be written; what stood there before still does.
    """
    try:
        if _is_door(path):
            path.write_bytes(data)
            return
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_beside(target, data, private=private)
    except OSError as error:
        raise not_written(str(path), error) from error


def check_target(path: Path) -> None:
    """Whether `write_whole` has a chance, asked before the work whose result it writes; makes the folders.

    Raises:
        OutputError: it has none; or a video or a picture is there: nobody means to replace it by a result.
    """
    target = path
    try:
        if _is_door(path):
            place = path
        else:
            target = Path(os.path.realpath(path))
            place = target.parent
            place.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISDIR(target.stat().st_mode):
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise not_written(str(path), error) from error
    if target.suffix.lower() in MEDIA_SUFFIXES and target.is_file() and target.stat().st_size:
        raise OutputError(
            f"{path}: a video or a picture is there, and would be replaced by a result",
            hint="give the result a name of its own; was the value of an option left out?",
        )


def check_apart(outputs: Sequence[Path | None], inputs: Iterable[Path]) -> None:
    """Refuse results that would take the place of what is read for them, or of each other.

    Raises:
        OutputError: one of them would.
    """
    taken: dict[object, Path] = {}
    for path in outputs:
        if path is not None and not _is_door(path):
            before = taken.setdefault(_identity(path), path)
            if before is not path:
                raise OutputError(f"{path}: two results cannot be one file", hint="give each a file of its own")
    for path in inputs:
        if _identity(path) in taken:
            raise OutputError(f"{path}: it is read, and would be replaced", hint="give the result another file")


def _identity(path: Path) -> object:
    """Of the file, whatever it is called; of none yet, where it would be."""
    try:
        status = path.stat()
    except OSError:
        return os.path.realpath(path)
    except ValueError:  # a NUL, which no file's name has
        return str(path)
    return status.st_dev, status.st_ino


def _is_door(path: Path) -> bool:
    """Whether a pipe or a device is there. Asked of the path as it is: what ``/dev/fd/63`` resolves to is no path."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def check_targets(*paths: Path | None) -> None:
    """`check_target` of those that are asked for. Work of hours must not end with a result that nobody can have."""
    for path in paths:
        if path is not None:
            check_target(path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system refuses inside is told as an output that failed.

    Raises:
        OutputError: in place of any other `OSError`.
    """
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise not_written(str(path), error) from error


def not_written(where: str, error: OSError) -> OutputError:
    """What a user is told of an output that failed."""
    return OutputError(
        f"{where}: cannot be written ({(error.strerror or str(error)).lower()})",
        hint="check the folder, its rights and its space",
    )


def _write_beside(target: Path, data: bytes, *, private: bool) -> None:
    # Not named after the target: its name may be as long as names can be.
    part = target.parent / f".{secrets.token_hex(8)}.part"
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            part.chmod(target.stat().st_mode & 0o777)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
