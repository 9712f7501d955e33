"""``difffake scan --scores``: one line of CSV for each source, written as soon as it is done."""

from __future__ import annotations

import csv
import fcntl
import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

import difffake
from difffake.errors import OutputError
from difffake.files import not_written, write_whole
from difffake.results import EVIDENCES, ScanResult
from difffake.settings import ScanSettings

COLUMNS = (
    "path",
    "error",
    "frames",
    "coverage",
    "people",
    *(f"{evidence}_{what}" for evidence in EVIDENCES for what in ("score", "p_value", "frames", "by")),
    "model",
    "settings",
)
#: They change no score.
_WITHOUT_EFFECT = ("threads", "moments")


class MadeWith(NamedTuple):
    """What scores depend on besides the file: the last two cells of a line."""

    model: str = ""
    settings: str = ""

    @classmethod
    def of(cls, model_id: str, settings: ScanSettings, anchors: str = "") -> Self:
        """``anchors``: a digest of the file of enrolled people. Of the settings those are written that are not as by
        default, as ``name=value`` with blanks between them."""
        usual, given = msgspec.structs.asdict(ScanSettings()), msgspec.structs.asdict(settings)
        told = {name: value for name, value in given.items() if value != usual[name] and name not in _WITHOUT_EFFECT}
        told |= {"anchors": anchors} if anchors else {}
        return cls(model_id, " ".join([f"difffake={difffake.__version__}", *(f"{n}={v}" for n, v in told.items())]))

    def apart(self, other: MadeWith) -> list[str]:
        """Where it differs from another one, in words: what it has, and what the other."""
        model = [] if self.model == other.model else [f"model {self.model} (now {other.model})"]
        own, others = (dict(item.partition("=")[::2] for item in made.settings.split()) for made in (self, other))
        usual = msgspec.structs.asdict(ScanSettings())
        return model + [
            f"{name} {own.get(name, usual.get(name))} (now {others.get(name, usual.get(name))})"
            for name in own | others
            if own.get(name) != others.get(name)
        ]


def row_of(path: str, result: ScanResult, made_with: MadeWith | None = None) -> list[str]:
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
    return [*cells, *(made_with or MadeWith.of(result.model_id, result.settings))]


def row_of_failure(path: str, error: str, made_with: MadeWith | None = None) -> list[str]:
    """The cells of a source that could not be scanned; ``error``: its class."""
    return [path, error, *[""] * (len(COLUMNS) - 4), *(made_with or MadeWith())]


class ScoreTable:
    """A CSV file that grows line by line, so that whoever is killed in the middle of a folder leaves what is done.

    Args:
        path: the file; None: nothing is written.
        resumed: go on behind what stands there; else it is replaced.
        made_with: what the lines to come are made with; lines of a resumed table that were made otherwise are refused.
        is_again: of a line's path and error (empty: none), whether it is taken out because its source is scanned again.

    Attributes:
        done: the paths that have a line already, and its error (empty: none).
        again: how many lines were taken out.

    Raises:
        OutputError: it cannot be written, holds something else, or was made otherwise. Once `add` has raised it,
            nothing more is written.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        resumed: bool = False,
        made_with: MadeWith | None = None,
        is_again: Callable[[str, str], bool] | None = None,
    ) -> None:
        self.name, self._file, self._made_with = str(path), None, made_with
        self._is_again = is_again or (lambda _path, _error: False)
        self.done: dict[str, str] = {}
        self.again = 0
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            is_file = path.is_file() or not path.exists()
            # Unbuffered: a line is in the file when `add` returns, whatever happens then.
            handle = os.open(path, os.O_RDWR | os.O_CREAT if is_file else os.O_WRONLY, 0o666)
            self._file = os.fdopen(handle, "r+b" if is_file else "wb", buffering=0)
            kept = self._keep(self._file, path, resumed=resumed) if is_file else b""
        except BaseException as error:
            self.close()
            if isinstance(error, OutputError) or not isinstance(error, OSError):
                raise
            raise not_written(self.name, error) from error
        if not kept:
            self.add(list(COLUMNS))

    def _keep(self, file: io.FileIO, path: Path, *, resumed: bool) -> bytes:
        """Cut off what is not gone on from; returns what is. The file is ours alone until it is closed."""
        self._lock(file, path)
        there = file.readall()
        whole = there[: there.rfind(b"\n") + 1]  # half a line is of a disk that was full
        begin = f"{COLUMNS[0]},".encode()
        if there[: len(begin)] != begin[: len(there)]:  # refused, not replaced
            raise OutputError(
                f"{self.name} is there, and no table of `scan --scores`", hint="give --scores another file"
            )
        kept = whole if resumed else b""
        if kept:
            rows = _rows_in(self.name, kept)
            left = [row for row in rows if not self._is_again(row[0], row[1])]
            self._check_made_with(left)
            self.done = {row[0]: row[1] for row in left}
            self.again = len(rows) - len(left)
            if self.again:
                # Another file takes its place: who is killed in the middle has the one or the other.
                kept = b"".join(map(_line, [list(COLUMNS), *left]))
                write_whole(path, kept)
                with file:  # its lock is held until the next one is
                    self._file = path.open("r+b", buffering=0)
                    self._lock(self._file, path)
                file = self._file
        file.truncate(len(kept))
        file.seek(len(kept))
        return kept

    def _lock(self, file: io.FileIO, path: Path) -> None:
        taken = OutputError(
            f"{self.name}: another scan writes it", hint="wait for its end, or give --scores another file"
        )
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise taken from error
        except OSError:  # a file system without locks
            return
        if not os.path.samestat(os.fstat(file.fileno()), path.stat()):  # it was replaced before the lock was ours
            raise taken

    def _check_made_with(self, rows: Iterable[list[str]]) -> None:
        now = self._made_with
        for made in {MadeWith(*row[-2:]) for row in rows} - {MadeWith()}:
            if now is not None and (apart := made.apart(now)):
                raise OutputError(
                    f"{self.name} was made with {', '.join(apart)}",
                    hint="scan as then, or give --scores another file; without --resume it is replaced",
                )

    def add(self, cells: list[str]) -> None:
        """Write a line."""
        if self._file is None:
            return
        line = _line(cells)
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


def _line(cells: list[str]) -> bytes:
    text = io.StringIO()
    # Only what ends lines is quoted, and a lone carriage return in a file's name would end one for readers.
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n").encode() + b"\n"


def _rows_in(name: str, kept: bytes) -> list[list[str]]:
    try:
        rows = list(csv.reader(io.StringIO(kept.decode(), newline=""), strict=True))
        if tuple(rows[0]) == COLUMNS and all(len(row) == len(COLUMNS) for row in rows):
            return rows[1:]
    except (ValueError, csv.Error):
        pass
    raise OutputError(
        f"{name} is no table of this version's `scan --scores`",
        hint="give --scores another file, or leave --resume out to replace it",
    )
