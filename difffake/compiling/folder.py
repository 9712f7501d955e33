"""All of a folder, or nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from difffake.errors import EngineError


@contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """Give an empty folder beside ``final`` that takes its place when the block ends well.

    Whatever goes wrong, an interrupt too, the new folder vanishes and ``final`` stays as it was; folders that had to be
    made for it vanish with it.

    Raises:
        EngineError: the folder cannot be made or moved.
    """
    made = [parent for parent in final.parents if not parent.exists()]
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
    except OSError as error:
        raise EngineError(
            f"cannot write to {final.parent}: {error.strerror}", hint="choose another folder: --out DIR"
        ) from error
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp lets nobody else read
        _replace(partial, final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise


def _replace(new: Path, final: Path) -> None:
    """A folder cannot be renamed over a full one: the old one steps aside, and back if the new one fails."""
    old = final.with_name(f".{final.name}-old-{os.getpid()}")
    try:
        if final.exists():
            final.rename(old)
        try:
            new.rename(final)
        except OSError:
            if old.exists():
                old.rename(final)
            raise
    except OSError as error:
        raise EngineError(
            f"cannot move the engine to {final}: {error.strerror}", hint="choose another folder: --out DIR"
        ) from error
    shutil.rmtree(old, ignore_errors=True)
