"""``difffake scan --scores``: one line of CSV for each source, written as soon as it is done."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from types import TracebackType
from typing import Self

from difffake.errors import OutputError
from difffake.files import not_written
from difffake.results import EVIDENCES, ScanResult

COLUMNS = (
    "path",
    "error",
    "frames",
    "coverage",
    "people",
    *(f"{evidence}_{what}" for evidence in EVIDENCES for what in ("score", "p_value", "frames", "by")),
)


def row_of(path: str, result: ScanResult) -> list[str]:
    """The cells of a source that was scanned, as in `COLUMNS`; of each evidence those of whoever scores highest.

    An evidence that nobody has is four empty cells: that is no low score.
    """
    cells = [path, "", str(result.frames_analysed), f"{result.coverage:.4f}", str(len(result.people))]
    for evidence in EVIDENCES:
        found = [(p.verdicts[evidence], p.scores[evidence]) for p in result.people if evidence in p.verdicts]
        if not found:
            cells += [""] * 4
            continue
        verdict, by = max(found, key=lambda one: one[0].score)
        cells += [f"{verdict.score:.6g}", f"{verdict.p_value:.4g}", str(verdict.frames), by]
    return cells


def row_of_failure(path: str, error: str) -> list[str]:
    """The cells of a source that could not be scanned; ``error``: its class."""
    return [path, error, *[""] * (len(COLUMNS) - 2)]


class ScoreTable:
    """A CSV file that grows line by line, so that whoever is killed in the middle of a folder leaves what is done.

    Args:
        path: the file; None: nothing is written.
        resumed: go on behind what stands there; else it is replaced.

    Attributes:
        done: the paths that have a line already.

    Raises:
        OutputError: it cannot be written, or holds something else. Once `add` has raised it, it does nothing.
    """

    def __init__(self, path: Path | None, *, resumed: bool = False) -> None:
        self.name, self._file = str(path), None
        self.done: frozenset[str] = frozenset()
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = path.read_bytes() if resumed and path.is_file() else b""
            kept = kept[: kept.rfind(b"\n") + 1]  # half a line is of a disk that was full
            if kept:
                self.done = _paths_in(self.name, kept)
            # Unbuffered: a line is in the file when `add` returns, whatever happens then.
            self._file = path.open("r+b" if kept else "wb", buffering=0)
            if kept:
                self._file.truncate(len(kept))
                self._file.seek(len(kept))
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            raise not_written(self.name, error) from error
        if not kept:
            self.add(list(COLUMNS))

    def add(self, cells: list[str]) -> None:
        """Write a line."""
        if self._file is None:
            return
        text = io.StringIO()
        # Only what ends lines is quoted, and a lone carriage return in a file's name would end one for readers.
        csv.writer(text, lineterminator="\r\n").writerow(cells)
        line = text.getvalue().removesuffix("\r\n").encode() + b"\n"
        try:
            while line:  # a disk that is nearly full takes a part of it
                line = line[self._file.write(line) :]
        except OSError as error:
            self.close()
            raise not_written(self.name, error) from error

    def close(self) -> None:
        """No more lines come."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _paths_in(name: str, kept: bytes) -> frozenset[str]:
    try:
        rows = list(csv.reader(io.StringIO(kept.decode(), newline=""), strict=True))
        if tuple(rows[0]) == COLUMNS and all(len(row) == len(COLUMNS) for row in rows):
            return frozenset(row[0] for row in rows[1:])
    except (ValueError, csv.Error):
        pass
    raise OutputError(
        f"{name} is no table of this version's `scan --scores`",
        hint="give --scores another file, or leave --resume out to replace it",
    )
