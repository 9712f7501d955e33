"""The table of `difffake scan --scores`: whole lines, whatever ends the scan, and going on behind them."""

from __future__ import annotations

import csv
from pathlib import Path

import msgspec
import pytest
from command_line import run
from test_report import make_result

from difffake.bundle import Bundle
from difffake.files import not_written
from stream.commands_scan import ScanDocument
from stream.scan_table import COLUMNS, ScoreTable, row_of, row_of_failure


@pytest.fixture
def base(tiny_bundle: Bundle) -> list[str]:
    return ["--bundle", str(tiny_bundle.path), "--threads", "1"]


def test_a_table_of_scores_names_whoever_scores_highest() -> None:
    low, high = (
        msgspec.structs.replace(
            (result := make_result()).people[0],
            verdicts={"artifact": msgspec.structs.replace(result.people[0].verdicts["artifact"], score=score)},
        )
        for score in (-1.0, 4.5)
    )
    cells = row_of("a.mp4", msgspec.structs.replace(make_result(), people=[low, high, low]))
    told = dict(zip(COLUMNS, cells, strict=True))
    assert (told["artifact_score"], told["people"], told["anchor_score"]) == ("4.5", "3", "")


def test_names_of_files_do_not_break_lines_of_the_table(tmp_path: Path) -> None:
    names = ["a\nb.mp4", "a\rb.mp4", 'a,"b".mp4', " a.mp4 "]
    with ScoreTable(tmp_path / "scores.csv") as table:
        for name in names:
            table.add(row_of_failure(name, "NoFaceError"))
    with (tmp_path / "scores.csv").open(newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == names


def test_a_scan_that_was_killed_goes_on_behind_what_its_table_has(
    clips: dict[str, Path], base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, options = tmp_path / "scores.csv", [*base, "--fps", 1, "-q", "--duration", 1]
    sources, killed = [clips["man"], clips["no_face"], clips["woman"]], "a\nb.mp4"
    with ScoreTable(table) as begun:
        begun.add(row_of_failure(str(clips["man"]), "NoFaceError"))
        begun.add(row_of_failure(killed, "NoFaceError"))
    first = table.read_bytes()
    table.write_bytes(first + str(clips["woman"]).encode() + b",,99,1.0")  # half a line, of a disk that was full
    assert run("scan", *sources, *options, "--scores", table, "--resume") == 17
    assert "has 1 of 3 already; 2 to scan" in capsys.readouterr().err
    assert table.read_bytes().startswith(first)
    with table.open(newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file, strict=True)]
    assert paths == [str(clips["man"]), killed, str(clips["no_face"]), str(clips["woman"])]
    assert run("scan", *sources, *options, "--scores", table) == 17
    assert len(table.read_text().splitlines()) == 4, "without --resume it is begun anew"


@pytest.mark.parametrize("stands", ["", "pa", "path,err"])
def test_a_table_whose_first_line_was_cut_off_is_begun_anew(stands: str, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(stands)
    with ScoreTable(tmp_path / "s.csv", resumed=True) as table:
        assert not table.done
    assert (tmp_path / "s.csv").read_text() == ",".join(COLUMNS) + "\n"


@pytest.mark.parametrize(
    ("stands", "hint"),
    [
        ("a,b\n1,2\n", "another file"),
        ("\x00\n", "another file"),
        (f"{','.join(COLUMNS)}\na.mp4,\n", "leave --resume out to replace it"),
    ],
)
def test_a_file_of_others_is_not_gone_on_with(
    stands: str, hint: str, clips: dict[str, Path], base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.csv"
    other.write_text(stands)
    assert run("scan", clips["man"], *base, "--resume", "--scores", other) == 18
    assert hint in capsys.readouterr().err.lower()
    assert other.read_text() == stands
    assert run("scan", clips["man"], *base, "--resume") == 2


def test_a_table_that_cannot_be_written_from_the_beginning(
    clips: dict[str, Path], base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("scan", clips["man"], *base, "-q", "--scores", tmp_path, "--json", tmp_path / "out.json") == 18
    assert "cannot be written (is a directory)" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_a_disk_that_is_full_half_way_costs_the_table_alone(
    clips: dict[str, Path], base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(ScoreTable):
        def add(self, cells: list[str]) -> None:
            if cells != list(COLUMNS):
                raise not_written(self.name, OSError(28, "No space left on device"))

    monkeypatch.setattr("stream.commands_scan.ScoreTable", Full)
    options = [*base, "--fps", 1, "-q", "--scores", tmp_path / "a.csv", "--json", tmp_path / "out.json"]
    assert run("scan", clips["man"], *options) == 18
    document = msgspec.json.decode((tmp_path / "out.json").read_bytes(), type=ScanDocument)
    assert [len(document.results), document.failures[0].name] == [1, "a.csv"]
