"""Which videos are real, which are fakes, and what must stay together when they are divided."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from difffake.errors import DataError
from difffake.evaluation.layouts import FAKE, REAL, Item, Layout, Listing, folder_items, list_items

MAX_VIDEOS = 20_000


@dataclass(frozen=True, slots=True)
class Labelled:
    """A video with its source (which folder of fakes it lies in) and its group."""

    item: Item
    source: str
    group: str


def list_labelled(
    real: Sequence[Path],
    fake: Sequence[Path],
    data: Sequence[tuple[Layout, Path]] = (),
    *,
    series: bool = False,
) -> tuple[list[Labelled], list[str]]:
    """All videos of folders of real and of fake ones, and of data sets; and remarks on what was passed over.

    A folder holds videos or pictures, or one folder a person. Files of one path below their folders
    (``real/anna/1.mp4``, ``fake/anna/1.mp4``) show one stream: the real one anchors the fake one. A video's group is
    its person. With ``series``, videos whose names differ in a last number alone are a group and a source, whoever is
    in them: recordings of one generator's model, of which a head must not have seen one when it is judged on another.

    Raises:
        DataError: a folder that is missing or empty, a file that is real and fake, or more than 20,000 videos.
    """
    found: list[Labelled] = []
    notes: list[str] = []
    names = [folder.resolve().name for folder in fake]
    sources = names if len(set(names)) == len(names) else [str(folder) for folder in fake]
    for label, folders, of in ((REAL, real, [""] * len(real)), (FAKE, fake, sources)):
        for folder, source in zip(folders, of, strict=True):
            if not folder.is_dir():
                raise DataError(f"{folder} is not a folder", hint="name a folder of videos, or of one folder a person")
            skipped: Counter[str] = Counter()
            items = list(folder_items(folder, label, str(folder), skipped))
            notes += (f"{count} files of {folder} left out: {reason}" for reason, count in skipped.items())
            if not items:
                raise DataError(f"no video and no picture in {folder}", hint="give .mp4, .mov, .mkv, .jpg, .png ...")
            found += [Labelled(item, source, item.person) for item in items]
    for layout, root in data:
        listing = list_items(layout, root)
        found += [
            Labelled(i, (i.method or root.resolve().name) if i.label == FAKE else "", i.person) for i in listing.items
        ]
        notes += _passed_over(listing)
    if len(found) > MAX_VIDEOS:
        raise DataError(f"{len(found)} videos to adapt to", hint=f"take no more than {MAX_VIDEOS}")
    _check_sides(found)
    if series:
        found = [Labelled(one.item, _series(one.item) if one.source else "", _series(one.item)) for one in found]
    return found, notes


def _check_sides(found: Sequence[Labelled]) -> None:
    sides = [{(one.item.path.resolve(), one.item.region) for one in found if one.item.label == s} for s in (REAL, FAKE)]
    if both := sorted(path for path, _ in sides[REAL] & sides[FAKE]):
        raise DataError(
            f"{len(both)} files are given as real and as fake, {both[0].name} among them",
            hint="--real and --fake must name different files",
        )


def _passed_over(listing: Listing) -> Iterator[str]:
    for reason, count in listing.skipped.items():
        yield f"{count} files left out: {reason}"
    if listing.missing:
        yield f"{len(listing.missing)} listed files are not there"


def _series(item: Item) -> str:
    return re.sub(r"[ _.-]*\d+$", "", item.path.stem) or item.path.stem
