"""What training reads: folders of people, flat folders, tar files of the same, and clips.

A person's key is ``source/name``. The name is the folder an image or clip lies in; a file that lies in no
folder of its own (a flat folder, or the one folder of a tar that is named like the tar) is its own person.
"""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

from difffake.errors import DataError
from difffake.folder import VIDEO_SUFFIXES

#: Pictures whose bytes are decoded in memory, out of a tar, too.
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


class Kind(StrEnum):
    """Where a crop was taken from."""

    PHOTO = "photo"
    VIDEO = "video"


@dataclass(frozen=True, slots=True)
class SourceLimits:
    """How much is read from one source before it is cut off or a file is passed over."""

    max_files: int = 2_000_000
    max_image_bytes: int = 32 * 2**20


@dataclass(frozen=True, slots=True)
class Item:
    """One image (its encoded bytes, or the path to read them from) or one clip (a path)."""

    person: str
    kind: Kind
    data: bytes | Path


def source_name(source: Path) -> str:
    """``lfw.tar`` and ``lfw/`` are both ``lfw``."""
    return source.stem if source.suffix.lower() == ".tar" else source.name


def person_key(name: str, member: PurePosixPath) -> str:
    """The person of a file at ``member`` (relative) inside the source ``name``.

    >>> person_key("lfw", PurePosixPath("lfw/Ann_Lee/Ann_Lee_0001.jpg"))
    'lfw/Ann_Lee'
    >>> person_key("ffhq600", PurePosixPath("ffhq600/10.jpg"))
    'ffhq600/10'
    """
    parts = [part for part in member.parts if part not in {".", ".."}]
    if len(parts) > 1 and parts[0] == name:
        parts = parts[1:]
    return f"{name}/{parts[-2] if len(parts) > 1 else PurePosixPath(parts[-1]).stem}"


def check_sources(sources: Sequence[Path]) -> None:
    """Raise DataError unless every source exists, is a folder or a tar, and no two share a name."""
    if not sources:
        raise DataError("no training sources were given", hint="name folders of people, tar files or clips")
    for source in sources:
        if not source.exists():
            raise DataError(f"no such source: {source}", hint="check the path")
        if source.is_file() and source.suffix.lower() not in VIDEO_SUFFIXES | {".tar"}:
            raise DataError(
                f"{source} is neither a folder, a .tar file nor a clip", hint="unpack it, or pack it as .tar"
            )
    names = Counter(source_name(source) for source in sources)
    doubled = [name for name, count in names.items() if count > 1]
    if doubled:
        raise DataError(
            f"two sources are called {doubled[0]!r}: their people could not be told apart",
            hint="rename one of them",
        )


def read_items(source: Path, limits: SourceLimits, skipped: Counter[str]) -> Iterator[Item]:
    """Every image and clip of a source, in a stable order; what is passed over is counted in ``skipped``.

    Tar members are read in memory, never written to disk: only regular files, only images, only up to
    ``max_image_bytes``; their names serve as labels and are never used as paths.

    Raises:
        DataError: a damaged tar, or more files than ``max_files``.
    """
    reader = _read_tar if source.suffix.lower() == ".tar" and source.is_file() else _read_folder
    for count, item in enumerate(reader(source, limits, skipped)):
        if count >= limits.max_files:
            raise DataError(f"{source} holds more than {limits.max_files} files", hint="split it, or raise max_files")
        yield item


def _read_tar(source: Path, limits: SourceLimits, skipped: Counter[str]) -> Iterator[Item]:
    name = source_name(source)
    try:
        # "r|" streams: a tar without an index costs one pass, and a huge one no memory.
        with tarfile.open(source, mode="r|") as archive:
            for member in archive:
                if member.isdir():
                    continue
                path = PurePosixPath(member.name)
                if not member.isfile() or path.suffix.lower() not in IMAGE_SUFFIXES:
                    skipped["not_an_image"] += 1
                elif member.size > limits.max_image_bytes:
                    skipped["too_many_bytes"] += 1
                else:
                    stream = archive.extractfile(member)
                    if stream is not None:
                        yield Item(person_key(name, path), Kind.PHOTO, stream.read())
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{source} is no tar file, or a damaged one: {error}", hint="pack it again") from error


def _read_folder(source: Path, limits: SourceLimits, skipped: Counter[str]) -> Iterator[Item]:
    name = source_name(source)
    paths = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    for path in paths:
        member = PurePosixPath(path.name if path == source else path.relative_to(source).as_posix())
        suffix = path.suffix.lower()
        if suffix in VIDEO_SUFFIXES:
            yield Item(person_key(name, member), Kind.VIDEO, path)
        elif suffix not in IMAGE_SUFFIXES:
            skipped["not_an_image"] += 1
        elif path.stat().st_size > limits.max_image_bytes:
            skipped["too_many_bytes"] += 1
        else:
            yield Item(person_key(name, member), Kind.PHOTO, path)
