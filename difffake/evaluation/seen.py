"""Which files a bundle's head has been fitted on: figures on these are no test of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from difffake.bundle import Bundle

#: Hex digits of a SHA-256 that are kept: enough to know a file again.
_CHARACTERS = 16


def file_digest(path: Path) -> str:
    """The first 16 hex digits of a file's SHA-256. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_CHARACTERS]


def seen_in_adaptation(bundle: Bundle, paths: Iterable[Path]) -> list[Path]:
    """Those of the files that ``difffake adapt`` took for this bundle, whatever they are called now."""
    adapted = bundle.manifest.training.get("adapted")
    listed = adapted.get("files") if isinstance(adapted, dict) else None
    if not bundle.heads or not isinstance(listed, list):
        return []
    known = {one for one in listed if isinstance(one, str)}
    return [path for path in sorted(set(paths)) if path.is_file() and file_digest(path) in known]


def readings_note(bundle: Bundle) -> str:
    """Which of a report's scores the bundle reads as evidence."""
    video, still = (bundle.manifest.readings(is_still=is_still) for is_still in (False, True))
    told = [f"{name} by {score}" for name, score in video.items()]
    if still.get("artifact") != video.get("artifact"):
        told.append(f"artifact of still pictures by {still['artifact']}")
    return f"The bundle reads {', '.join(told)}."


def taught_notes(bundle: Bundle, paths: Iterable[Path]) -> Iterator[str]:
    """What a report on these files must say of those that a head has been fitted on; nothing if there are none."""
    seen = seen_in_adaptation(bundle, paths)
    names = [name for name, spec in bundle.manifest.scores.items() if spec.is_taught]
    if seen and names:
        yield (
            f"{len(seen)} of these files taught the bundle ({', '.join(names)}): their figures are no test of it. "
            "`difffake adapt` gives those of cross-validation."
        )
