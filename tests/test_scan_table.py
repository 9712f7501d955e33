"""The table of `difffake scan --scores`: whole lines, whatever ends the scan, and going on behind them."""

from __future__ import annotations

import csv
import fcntl
from pathlib import Path

import msgspec
import pytest
from command_line import run
from test_report import make_result
from tiny import write_tiny_bundle

import difffake
from difffake.bundle import Bundle
from difffake.errors import OutputError
from difffake.files import not_written
from difffake.settings import ScanSettings
from stream.commands_scan import ScanDocument
from stream.scan_table import COLUMNS, MadeWith, ScoreTable, row_of, row_of_failure


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


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file, strict=True))


def test_what_failed_is_scanned_again_and_has_one_line_in_the_end(
    clips: dict[str, Path], base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A night's addresses that did not answer for a minute had no result, however often one went on."""
    table, late, lost = tmp_path / "scores.csv", tmp_path / "late.mp4", tmp_path / "lost.mp4"
    scan = ["scan", late, clips["no_face"], clips["man"], lost, *base, "--fps", 1, "-q", "--duration", 1]
    assert run(*scan, "--scores", table) == 10
    assert [row["error"] for row in rows_of(table)] == ["MediaNotFoundError", "NoFaceError", "", "MediaNotFoundError"]
    late.write_bytes(clips["woman"].read_bytes())
    table.chmod(0o640)
    capsys.readouterr()
    assert run(*scan, "--scores", table, "--resume") == 10
    assert "has 2 of 4 already; 2 to scan (2 again" in capsys.readouterr().err
    found = {row["path"]: row["error"] for row in rows_of(table)}
    lost_again, none = "MediaNotFoundError", "NoFaceError"
    assert found == {str(clips["no_face"]): none, str(clips["man"]): "", str(late): "", str(lost): lost_again}
    assert len(rows_of(table)) == 4
    assert table.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []


def test_failures_of_other_sources_stay(clips: dict[str, Path], base: list[str], tmp_path: Path) -> None:
    table = tmp_path / "scores.csv"
    with ScoreTable(table) as begun:
        begun.add(row_of_failure("other.mp4", "MediaNotFoundError"))
        begun.add(row_of_failure(str(tmp_path / "none"), "MediaNotFoundError"))
    options = [*base, "--fps", 1, "-q", "--duration", 1, "--scores", table, "--resume"]
    (tmp_path / "none").mkdir()
    assert run("scan", tmp_path / "none", clips["man"], *options) == 10  # a folder without a video fails again
    assert [row["path"] for row in rows_of(table)] == ["other.mp4", str(tmp_path / "none"), str(clips["man"])]


def test_a_table_is_whole_until_the_one_without_its_failures_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "scores.csv"
    with ScoreTable(table) as begun:
        begun.add(row_of_failure("a.mp4", "MediaNotFoundError"))
        begun.add(row_of_failure("b.mp4", "NoFaceError"))
    before = table.read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            ScoreTable(table, resumed=True, is_again=lambda path, _: path == "a.mp4")
    assert table.read_bytes() == before
    with ScoreTable(table, resumed=True, is_again=lambda path, _: path == "a.mp4") as resumed:
        assert (resumed.done, resumed.again) == ({"b.mp4": "NoFaceError"}, 1)
        with pytest.raises(OutputError, match="another scan writes it"):
            ScoreTable(table, resumed=True)
        resumed.add(row_of_failure("a.mp4", "NoFaceError"))
    assert [row["path"] for row in rows_of(table)] == ["b.mp4", "a.mp4"]


def test_a_table_that_is_replaced_before_its_lock_is_anothers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lines went into a file that no name led to any more."""
    table, real = tmp_path / "scores.csv", fcntl.flock
    ScoreTable(table).close()

    def late(*given: int) -> None:
        (tmp_path / "new").write_bytes(table.read_bytes())
        (tmp_path / "new").replace(table)
        real(*given)

    monkeypatch.setattr("stream.scan_table.fcntl.flock", late)
    with pytest.raises(OutputError, match="another scan writes it"):
        ScoreTable(table, resumed=True)


def test_reports_that_are_missing_are_made_up_for(clips: dict[str, Path], base: list[str], tmp_path: Path) -> None:
    """The disk was full, or the first scan was not asked for any: the table says done, and nobody had them."""
    table, reports = tmp_path / "scores.csv", tmp_path / "reports"
    scan = ["scan", clips["man"], clips["woman"], clips["no_face"], *base, "--fps", 1, "-q", "--duration", 1]
    scan += ["--scores", table]
    assert run(*scan) == 17
    first = rows_of(table)
    assert run(*scan, "--report", reports, "--resume") == 0
    assert len(list(reports.iterdir())) == 2
    assert sorted(map(str, rows_of(table))) == sorted(map(str, first))
    (kept, lost) = sorted(reports.iterdir())
    lost.unlink()
    kept.write_text("kept")
    assert run(*scan, "--report", reports, "--resume") == 0
    assert kept.read_text() == "kept"
    assert lost.stat().st_size > 1000
    assert len(rows_of(table)) == 3


def test_a_result_is_not_given_up_for_a_report_that_nobody_can_make(
    clips: dict[str, Path], base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, gone = tmp_path / "scores.csv", tmp_path / "gone.mp4"
    gone.write_bytes(clips["man"].read_bytes())
    scan = ["scan", gone, *base, "--fps", 1, "-q", "--duration", 1, "--scores", table]
    assert run(*scan) == 0
    gone.unlink()
    before = table.read_bytes()
    capsys.readouterr()
    assert run(*scan, "--report", tmp_path / "reports", "--resume") == 0
    assert "1 of them has no report" in capsys.readouterr().err
    assert table.read_bytes() == before


def test_a_table_of_other_settings_is_not_gone_on_with(
    clips: dict[str, Path], base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of its lines were of one frame a second, and half of five: no ranking of them means anything."""
    table = tmp_path / "scores.csv"
    scan = ["scan", clips["man"], *base, "-q", "--duration", 1, "--scores", table]
    assert run(*scan, "--fps", 1) == 0
    (row,) = rows_of(table)
    assert row["model"].startswith("tiny")
    assert row["settings"] == f"difffake={difffake.__version__} fps=1.0 duration_s=1.0"
    before = table.read_bytes()
    capsys.readouterr()
    assert run(*scan, "--resume", "--set", "guests=true") == 18
    told = " ".join(capsys.readouterr().err.split())
    assert "was made with fps 1.0 (now 5.0), guests False (now True)" in told
    assert "another file" in told
    assert table.read_bytes() == before
    assert run(*scan, "--fps", 1, "--resume", "--threads", 2, "--set", "moments=3") == 0
    assert table.read_bytes() == before


def test_a_table_of_another_bundle_is_not_gone_on_with(
    clips: dict[str, Path], base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "scores.csv"
    other = write_tiny_bundle(tmp_path / "other", seed=1)
    scan = ["scan", clips["man"], "--threads", 1, "-q", "--duration", 1, "--fps", 1, "--scores", table]
    assert run(*scan, "--bundle", other.path) == 0
    capsys.readouterr()
    assert run(*scan, *base, "--resume") == 18
    told = " ".join(capsys.readouterr().err.split())
    assert f"was made with model {other.model_id} (now tiny" in told


def test_what_scores_were_made_with_is_told_apart() -> None:
    first = MadeWith.of("m-1", ScanSettings())
    assert first.apart(MadeWith.of("m-1", ScanSettings(threads=3))) == []
    assert first.apart(MadeWith.of("m-1", ScanSettings(), "ab12")) == ["anchors None (now ab12)"]
    assert MadeWith("m-1", "difffake=0.0.9").apart(first) == [f"difffake 0.0.9 (now {difffake.__version__})"]


def test_the_json_of_a_first_scan_is_not_lost_to_the_rest(
    clips: dict[str, Path], base: list[str], tmp_path: Path
) -> None:
    document, options = tmp_path / "all.json", [*base, "-q", "--fps", 1, "--duration", 1]
    options += ["--scores", tmp_path / "scores.csv"]
    assert run("scan", clips["man"], *options, "--json", document) == 0
    before = document.read_bytes()
    assert run("scan", clips["man"], clips["woman"], *options, "--json", document, "--resume") == 2
    assert document.read_bytes() == before
    assert run("scan", clips["man"], clips["woman"], *options, "--json", tmp_path / "rest.json", "--resume") == 0
    assert len(msgspec.json.decode((tmp_path / "rest.json").read_bytes(), type=ScanDocument).results) == 1
