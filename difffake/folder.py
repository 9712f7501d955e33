"""Which files of a folder are videos and pictures, by their names: the same for every command that takes a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from difffake.errors import LimitExceededError

VIDEO_SUFFIXES = frozenset(
    [
        ".264",
        ".265",
        ".3g2",
        ".3gp",
        ".asf",
        ".avi",
        ".divx",
        ".dv",
        ".f4v",
        ".flv",
        ".gif",
        ".h264",
        ".h265",
        ".hevc",
        ".ivf",
        ".m2ts",
        ".m2v",
        ".m4v",
        ".mjpeg",
        ".mjpg",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpe",
        ".mpeg",
        ".mpg",
        ".mts",
        ".mxf",
        ".obu",
        ".ogm",
        ".ogv",
        ".qt",
        ".rm",
        ".rmvb",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
        ".y4m",
    ]
)
IMAGE_SUFFIXES = frozenset(
    [".avif", ".bmp", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"]
)
#: What is taken from a folder; a file that is named itself is judged by its content alone.
MEDIA_SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES
_MAX_FILES = 500_000


@dataclass(frozen=True, slots=True)
class FolderMedia:
    """Videos and pictures of a folder, and what else lies in it; both sorted, both below the folder as it was given."""

    files: list[Path]
    left_out: list[Path]


def media_in(folder: Path, limit: int = _MAX_FILES) -> FolderMedia:
    """Look through a folder and those below it; linked folders too, each once.

    Hidden files and folders (``.name``) are passed over without a word, as `ls` does. Anything that is no folder and is
    called like a video or a picture is one: what is wrong with it is told when it is opened. So is a folder that nobody
    may look into: there may be videos in it.

    Raises:
        LimitExceededError: more than ``limit`` files.
    """
    found = FolderMedia([], [])
    seen: set[tuple[int, int]] = set()

    def unreadable(error: OSError) -> None:
        found.files.append(Path(str(error.filename)))

    for root, folders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        here = Path(root).stat()
        if (here.st_dev, here.st_ino) in seen:  # a link to a folder above it would never end
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith("."):
                path = Path(root) / name
                (found.files if path.suffix.lower() in MEDIA_SUFFIXES else found.left_out).append(path)
        if len(found.files) + len(found.left_out) > limit:
            raise LimitExceededError(f"{folder}: more than {limit} files", hint="go folder by folder")
    return FolderMedia(sorted(found.files), sorted(found.left_out))


def left_out_in_words(left_out: list[Path]) -> str:
    """``3 files left out, by their names neither videos nor pictures: a.txt, b and 1 more``."""
    files = "1 file" if len(left_out) == 1 else f"{len(left_out)} files"
    named, more = ", ".join(path.name for path in left_out[:3]), len(left_out) - 3
    told = f"{files} left out, by their names neither videos nor pictures: {named}"
    return f"{told} and {more} more" if more > 0 else told
