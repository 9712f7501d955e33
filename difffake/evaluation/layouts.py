"""Benchmark folders -> labelled items: which file is real, which is a fake, whose footage it is.

Every layout is read as its publishers ship it; the accepted folders are in ``EXPECTED``. An item's ``person``
is the person whose *footage* it is (the target of a swap, not the donor of the face): a real video and the
fakes made from it fall into one bootstrap group. Its ``pair`` names the genuine video that a fake was made
from, so that scores that need the real person of the same stream can be computed.

File lists and metadata that come with a data set are bounded, validated, and may only point below its root.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path

from difffake.errors import DataError, DiffFakeError
from difffake.evaluation.metadata import Labelled, celebdf_list, dfdc_csv, dfdc_metadata, ffpp_split
from difffake.folder import VIDEO_SUFFIXES, media_in
from difffake.video import open_video

REAL, FAKE = 0, 1
MAX_ITEMS = 500_000
# Two halves side by side are wide; a swap without its original is about as wide as high.
SIDE_BY_SIDE_ASPECT = 1.6


class Layout(StrEnum):
    """A data set's folders, by name."""

    FFPP = "ffpp"
    CELEBDF = "celebdf"
    DFD = "dfd"
    DFDC = "dfdc"
    FFIW = "ffiw"
    SIDE_BY_SIDE = "side-by-side"
    FOLDERS = "folders"


class Region(StrEnum):
    """Half of a side-by-side picture."""

    LEFT = "left"
    RIGHT = "right"


@dataclass(frozen=True, slots=True)
class Item:
    """One video (or image, or half of a side-by-side video) to be scored.

    ``person`` is the bootstrap group, ``video`` the unique id, ``pair`` the id shared by a genuine video and
    the fakes made from it, ``method`` the manipulation's name where the layout tells it.
    """

    path: Path
    label: int
    person: str
    video: str
    region: Region | None = None
    pair: str | None = None
    method: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a layout yielded: items, files that its metadata names but that are not there, files left out."""

    layout: Layout
    items: tuple[Item, ...]
    missing: tuple[str, ...]
    skipped: dict[str, int]
    notes: tuple[str, ...]


EXPECTED = {
    Layout.FFPP: "original_sequences/youtube/{c0|raw|c23|c40}/videos/000.mp4 and manipulated_sequences/"
    "{Deepfakes|Face2Face|FaceSwap|NeuralTextures|FaceShifter}/{c0|raw|c23|c40}/videos/000_003.mp4",
    Layout.CELEBDF: "Celeb-real/id0_0000.mp4, YouTube-real/00000.mp4, Celeb-synthesis/id0_id16_0000.mp4 and, "
    "for the official test set, List_of_testing_videos.txt",
    Layout.DFD: "original_sequences/actors/{c0|raw|c23|c40}/videos/01__scene.mp4 and manipulated_sequences/"
    "DeepFakeDetection/{c0|raw|c23|c40}/videos/01_02__scene__ABCDEFGH.mp4",
    Layout.DFDC: 'folders with a metadata.json ({"a.mp4": {"label": "FAKE", "original": "b.mp4"}}) beside '
    "their videos, or a labels.csv (filename,label) beside the videos or a videos/ folder",
    Layout.FFIW: "source/{train|val|test}/val_00000000.mp4 (real) and target/{train|val|test}/val_00000000.mp4 (fake)",
    Layout.SIDE_BY_SIDE: "video files whose left half is the real footage and whose right half is the swap "
    "of the same frame",
    Layout.FOLDERS: "real/ and fake/, each with videos or images, or with one folder a person",
}


def list_items(layout: Layout, root: Path, *, compression: str = "c23", split: Path | None = None) -> Listing:
    """Read a data set's folders.

    Args:
        layout: which data set.
        root: its top folder.
        compression: ``c0``, ``c23`` or ``c40``; FF++ and DFD only.
        split: FF++: the official ``test.json``; Celeb-DF: a list in the form of
        ``List_of_testing_videos.txt``.

    Raises:
        DataError: the folder is missing, holds something else, lacks one of the classes, or its metadata is
        broken.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder", hint=f"expected there: {EXPECTED[layout]}")
    if split is not None and layout not in (Layout.FFPP, Layout.CELEBDF):
        raise DataError(
            f"the layout {layout.value} takes no split: all its videos would be judged, not those of {split}",
            hint="leave --split out, or make a folder of the videos that count",
        )
    reader = _Reader(layout, root)
    match layout:
        case Layout.FFPP:
            _ffpp(reader, compression, split)
        case Layout.CELEBDF:
            _celebdf(reader, split)
        case Layout.DFD:
            _dfd(reader, compression)
        case Layout.DFDC:
            _dfdc(reader)
        case Layout.FFIW:
            _ffiw(reader)
        case Layout.SIDE_BY_SIDE:
            _side_by_side(reader)
        case Layout.FOLDERS:
            _folders(reader)
    return reader.listing()


class _Reader:
    """Collects items while a layout is read; an empty class becomes an error that shows what was expected."""

    def __init__(self, layout: Layout, root: Path) -> None:
        self.layout, self.root = layout, root
        self.items: list[Item] = []
        self.missing: list[str] = []
        self.skipped: Counter[str] = Counter()
        self.notes: list[str] = []

    def files(self, folder: Path, suffixes: frozenset[str] = VIDEO_SUFFIXES) -> list[Path]:
        """Files with these suffixes in a folder or, where the videos lie one deeper, in its ``videos/``."""
        if not folder.is_dir():
            return []
        inner = folder / "videos"
        return sorted(p for p in _bounded((inner if inner.is_dir() else folder).iterdir()) if _is(p, suffixes))

    def add(self, item: Item) -> None:
        self.items.append(item)

    def relative(self, path: Path) -> str:
        return path.relative_to(self.root).with_suffix("").as_posix()

    def odd_name(self) -> None:
        self.skipped[f"file name not as in {self.layout.value}"] += 1

    def listing(self) -> Listing:
        for label, name in ((REAL, "real"), (FAKE, "fake")):
            if not any(item.label == label for item in self.items):
                detail = f"; {len(self.missing)} listed files are not there" if self.missing else ""
                raise DataError(
                    f"no {name} video found in {self.root} (layout {self.layout.value}){detail}",
                    hint=f"expected there: {EXPECTED[self.layout]}",
                )
        if len({item.video for item in self.items}) != len(self.items):
            raise DataError(
                f"two files of {self.root} have the same id",
                hint="give every video a name of its own, whatever its extension",
            )
        skipped = dict(sorted(self.skipped.items()))
        return Listing(self.layout, tuple(self.items), tuple(self.missing), skipped, tuple(self.notes))


def _bounded(entries: Iterator[Path]) -> list[Path]:
    found = list(islice(entries, MAX_ITEMS + 1))
    if len(found) > MAX_ITEMS:
        raise DataError(f"more than {MAX_ITEMS} files in one folder", hint="evaluate the data set in parts")
    return found


def _is(path: Path, suffixes: frozenset[str]) -> bool:
    return path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()


def _compression_folder(sequence: Path, compression: str) -> Path:
    """``c0`` is called ``raw`` in later downloads of FF++."""
    raw = sequence / "raw"
    return raw if compression == "c0" and raw.is_dir() else sequence / compression


def _ffpp(reader: _Reader, compression: str, split: Path | None) -> None:
    wanted = None if split is None else ffpp_split(split)
    original = _compression_folder(reader.root / "original_sequences" / "youtube", compression)
    for path in reader.files(original):
        person = path.stem
        if not re.fullmatch(r"\d{3}", person):
            reader.odd_name()
        elif wanted is None or person in wanted:
            reader.add(Item(path, REAL, person, reader.relative(path), pair=person))
    for method in ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter"):
        folder = _compression_folder(reader.root / "manipulated_sequences" / method, compression)
        for path in reader.files(folder):
            name = re.fullmatch(r"(\d{3})_\d{3}", path.stem)
            if name is None:
                reader.odd_name()
            elif wanted is None or path.stem in wanted:
                person = name.group(1)
                reader.add(Item(path, FAKE, person, reader.relative(path), pair=person, method=method))
    if split is None:
        reader.notes.append("No split file was given: all videos are evaluated, not the official test set.")


def _celebdf(reader: _Reader, split: Path | None) -> None:
    official = reader.root / "List_of_testing_videos.txt"
    chosen = split if split is not None else (official if official.is_file() else None)
    folders = {"celeb-real": REAL, "youtube-real": REAL, "celeb-synthesis": FAKE}
    present = {p.name.lower(): p for p in _bounded(reader.root.iterdir()) if p.name.lower() in folders}
    found = {f"{name}/{path.name}": path for name, folder in sorted(present.items()) for path in reader.files(folder)}
    wanted: dict[str, int]
    if chosen is None:
        wanted = {key: folders[key.split("/")[0]] for key in found}
        reader.notes.append("List_of_testing_videos.txt is not there: all videos are evaluated.")
    else:
        wanted = {_lower_folder(name): label for name, label in celebdf_list(chosen).items()}
    for key, label in wanted.items():
        folder = key.split("/")[0]
        if folders.get(folder) != label:
            raise DataError(
                f"{chosen}: the label of {key} does not fit its folder",
                hint="1 is real and 0 is a fake in this list",
            )
        if key not in found:
            reader.missing.append(key)
            continue
        path = found[key]
        person, pair = _celebdf_ids(folder, path.stem)
        reader.add(Item(path, label, person, f"{folder}/{path.stem}", pair=pair))


def _lower_folder(name: str) -> str:
    # The folder is spelled YouTube-real and Youtube-real in different downloads.
    folder, _, file = name.partition("/")
    return f"{folder.lower()}/{file}"


def _celebdf_ids(folder: str, stem: str) -> tuple[str, str | None]:
    if folder == "celeb-real" and (name := re.fullmatch(r"(id\d+)_(\d+)", stem)):
        return name.group(1), stem
    if folder == "celeb-synthesis" and (name := re.fullmatch(r"(id\d+)_id\d+_(\d+)", stem)):
        return name.group(1), f"{name.group(1)}_{name.group(2)}"
    return f"{folder}/{stem}", None


def _dfd(reader: _Reader, compression: str) -> None:
    actors = _compression_folder(reader.root / "original_sequences" / "actors", compression)
    for path in reader.files(actors):
        if name := re.fullmatch(r"(\d{2})__(.+)", path.stem):
            reader.add(Item(path, REAL, name.group(1), reader.relative(path), pair=path.stem))
        else:
            reader.odd_name()
    fakes = _compression_folder(reader.root / "manipulated_sequences" / "DeepFakeDetection", compression)
    for path in reader.files(fakes):
        # target_source__scene__code; the code tells repeated swaps of one scene apart.
        if name := re.fullmatch(r"(\d{2})_\d{2}__(.+?)(?:__[A-Z0-9]{8})?", path.stem):
            pair = f"{name.group(1)}__{name.group(2)}"
            reader.add(Item(path, FAKE, name.group(1), reader.relative(path), pair=pair))
        else:
            reader.odd_name()


def _dfdc(reader: _Reader) -> None:
    parsers: dict[str, Callable[[Path], dict[str, Labelled]]]
    parsers = {"metadata.json": dfdc_metadata, "labels.csv": dfdc_csv}
    tables: list[tuple[Path, Callable[[Path], dict[str, Labelled]]]] = []
    for name, parse in parsers.items():
        tables += [(p, parse) for p in sorted(_bounded(reader.root.rglob(name))) if p.is_file()]
    done: dict[Path, int] = {}
    for table, parse in tables:
        for name, row in parse(table).items():
            places = (table.parent / name, table.parent / "videos" / name)
            path = next((p for p in places if p.is_file()), None)
            if path is None:
                reader.missing.append(reader.relative(table.parent / name))
            elif path not in done:
                done[path] = row.label
                # A fake's original lies in the same folder; elsewhere files may share a name.
                source = f"{table.parent.relative_to(reader.root).as_posix()}/{Path(row.original or name).stem}"
                reader.add(Item(path, row.label, source, reader.relative(path), pair=source))
            elif done[path] != row.label:
                raise DataError(
                    f"{table} and another table beside {path} do not agree on its label",
                    hint="keep the one that is right",
                )
    reader.notes.append(
        "DFDC publishes no person ids: videos are grouped by the original they were made from. One actor can "
        "be in several groups, so the intervals are too narrow."
    )


def _ffiw(reader: _Reader) -> None:
    for folder, label in (("source", REAL), ("target", FAKE)):
        for split in ("train", "val", "test"):
            for path in reader.files(reader.root / folder / split):
                scene = f"{split}/{path.stem}"
                reader.add(Item(path, label, scene, f"{folder}/{scene}", pair=scene))
    reader.notes.append("FFIW publishes no person ids: videos are grouped by scene.")


def _side_by_side(reader: _Reader) -> None:
    for path in reader.files(reader.root):
        try:
            # The picture, not the header: metadata may turn it by 90 degrees.
            with open_video(path) as video:
                height, width = next(iter(video)).image.shape[:2]
        except DiffFakeError as error:
            reader.skipped[f"unreadable ({type(error).__name__})"] += 1
            continue
        if width < SIDE_BY_SIDE_ASPECT * height:
            # Alone, without a real half of the same encode, its size and codec could give the answer away.
            reader.skipped["swap only, no genuine half"] += 1
            continue
        name = path.stem
        reader.add(Item(path, REAL, name, f"{name}/left", Region.LEFT, pair=name))
        reader.add(Item(path, FAKE, name, f"{name}/right", Region.RIGHT, pair=name))


def _folders(reader: _Reader) -> None:
    for folder, label in (("real", REAL), ("fake", FAKE)):
        top = reader.root / folder
        if top.is_dir():
            for item in folder_items(top, label, folder, reader.skipped):
                reader.add(item)


def folder_items(top: Path, label: int, name: str, skipped: Counter[str]) -> Iterator[Item]:
    """Videos and pictures of a folder, or of one folder a person; ids begin with ``name``.

    A file's ``pair`` is its path below ``top`` without the extension: the same in ``real/`` and in ``fake/``. What is
    neither is counted in ``skipped``.

    Raises:
        LimitExceededError: more than ``MAX_ITEMS`` files.
        DataError: the folder may not be looked into.
    """
    media = media_in(top, MAX_ITEMS)
    if media.files == [top]:
        raise DataError(f"{top}: no right to look into this folder", hint="check its permissions")
    if media.left_out:
        skipped["by its name neither video nor picture"] += len(media.left_out)
    for path in media.files:
        inner = path.relative_to(top)
        key = inner.with_suffix("").as_posix()
        person = inner.parts[0] if len(inner.parts) > 1 else key
        yield Item(path, label, person, f"{name}/{inner.as_posix()}", pair=key)
