"""``difffake scan --scores``: one line of CSV for each source, written as soon as it is done."""

from __future__ import annotations

import csv
import fcntl
import io
import os
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
            is_file = path.is_file() or not path.exists()
            # Unbuffered: a line is in the file when `add` returns, whatever happens then.
            handle = os.open(path, os.O_RDWR | os.O_CREAT if is_file else os.O_WRONLY, 0o666)
            self._file = os.fdopen(handle, "r+b" if is_file else "wb", buffering=0)
            kept = self._keep(self._file, resumed=resumed) if is_file else b""
        except OSError as error:
            self.close()
            if isinstance(error, OutputError):
                raise
            raise not_written(self.name, error) from error
        if not kept:
            self.add(list(COLUMNS))

    def _keep(self, file: io.FileIO, *, resumed: bool) -> bytes:
        """Cut off what is not gone on from; returns what is. The file is ours alone until it is closed."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(
                f"{self.name}: another scan writes it", hint="wait for its end, or give --scores another file"
            ) from error
        except OSError:  # a file system without locks
            pass
        there = file.readall()
        whole = there[: there.rfind(b"\n") + 1]  # half a line is of a disk that was full
        begin = f"{COLUMNS[0]},".encode()
        if there[: len(begin)] != begin[: len(there)]:  # refused, not replaced
            raise OutputError(
                f"{self.name} is there, and no table of `scan --scores`", hint="give --scores another file"
            )
        kept = whole if resumed else b""
        self.done = _paths_in(self.name, kept) if kept else frozenset()
        file.truncate(len(kept))
        file.seek(len(kept))
        return kept

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
