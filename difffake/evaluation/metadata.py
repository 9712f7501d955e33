"""The lists and label tables that come with data sets: bounded, validated, never pointing out of the root."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

import msgspec

from difffake.errors import DataError

MAX_BYTES = 256 * 2**20
MAX_ROWS = 500_000
MAX_NAME = 512
_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class Labelled:
    """One row of a label table: 0 real, 1 fake, and the file a fake was made from, if it is told."""

    label: int
    original: str | None = None


class _DfdcEntry(msgspec.Struct):
    label: str | None = None
    is_fake: int | None = None  # the test set's way of saying it
    original: str | None = None


def ffpp_split(path: Path) -> set[str]:
    """FF++'s ``test.json`` (``[["953", "974"], ...]``) -> the names of its real videos and of its fakes."""
    try:
        pairs = msgspec.json.decode(_read(path), type=list[tuple[str, str]])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(
            f"{path} is not an FF++ split: {error}", hint='expected: [["953", "974"], ["012", "026"], ...]'
        ) from None
    _check_rows(path, len(pairs))
    return {name for a, b in pairs for name in (a, b, f"{a}_{b}", f"{b}_{a}")}


def celebdf_list(path: Path) -> dict[str, int]:
    """``List_of_testing_videos.txt`` (``1 YouTube-real/00170.mp4``; there 1 is real) -> label by name."""
    lines = _text(path).splitlines()
    _check_rows(path, len(lines))
    found: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        flag, _, name = line.strip().partition(" ")
        if flag not in {"0", "1"} or name.strip().count("/") != 1:
            raise DataError(
                f"{path}, line {number}: cannot be read",
                hint="expected lines such as: 1 YouTube-real/00170.mp4",
            )
        _add(path, found, _safe(path, name.strip()), 1 - int(flag))
    return found


def dfdc_metadata(path: Path) -> dict[str, Labelled]:
    """A DFDC folder's ``metadata.json`` -> label and original by file name."""
    hint = 'expected: {"a.mp4": {"label": "FAKE", "original": "b.mp4"}, ...}'
    try:
        table = msgspec.json.decode(_read(path), type=dict[str, _DfdcEntry])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} is not a DFDC metadata file: {error}", hint=hint) from None
    _check_rows(path, len(table))
    found: dict[str, Labelled] = {}
    for name, entry in table.items():
        told = entry.label if entry.label is not None else entry.is_fake
        label = _label(path, name, told, hint)
        original = None if entry.original is None else _safe(path, entry.original)
        found[_safe(path, name)] = Labelled(label, original if label else None)
    return found


def dfdc_csv(path: Path) -> dict[str, Labelled]:
    """``labels.csv`` (``filename,label[,original]``; 0/1 or REAL/FAKE) -> label and original by file name."""
    hint = "expected a first line: filename,label"
    try:
        rows = list(csv.DictReader(io.StringIO(_text(path)), strict=True))
    except csv.Error as error:
        raise DataError(f"{path} is not a table: {error}", hint=hint) from None
    _check_rows(path, len(rows))
    found: dict[str, Labelled] = {}
    for row in rows:
        name = row.get("filename")
        if not name:
            raise DataError(f"{path}: a row without a file name", hint=hint)
        label = _label(path, name, row.get("label"), hint)
        original = row.get("original") or None
        _add(path, found, _safe(path, name), Labelled(label, _safe(path, original) if original and label else None))
    return found


def _add(path: Path, found: dict[str, _Row], name: str, row: _Row) -> None:
    if found.setdefault(name, row) != row:
        raise DataError(f"{path} says two things of {name[:MAX_NAME]}", hint="give each file one row")


def _label(path: Path, name: str, told: str | int | None, hint: str) -> int:
    known = {"REAL": 0, "0": 0, "FAKE": 1, "1": 1}
    key = str(told).strip().upper()
    if key not in known:
        raise DataError(f"{path}: {name[:MAX_NAME]} has no label that means real or fake", hint=hint)
    return known[key]


def _safe(path: Path, name: str) -> str:
    parts = PurePosixPath(name).parts
    outside = not parts or parts[0] == "/" or ".." in parts or "\\" in name or "\0" in name
    if outside or len(name) > MAX_NAME:
        raise DataError(
            f"{path} names a file outside its folder: {name[:80]!r}",
            hint="names in a list are relative, without '..'; take the list from the data set's publishers",
        )
    return name


def _check_rows(path: Path, rows: int) -> None:
    if rows > MAX_ROWS:
        raise DataError(f"{path} has {rows} rows, more than {MAX_ROWS}", hint="evaluate the data set in parts")


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path} is larger than {MAX_BYTES} bytes", hint="this is no list of videos")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", hint="check the path of the list") from None


def _text(path: Path) -> str:
    try:
        return _read(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text", hint="check the path of the list") from None
