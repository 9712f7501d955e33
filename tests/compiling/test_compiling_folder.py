from __future__ import annotations

from pathlib import Path

import pytest

from difffake.compiling.folder import whole_folder
from difffake.errors import EngineError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_folder_appears_when_all_of_it_is_there(tmp_path: Path) -> None:
    final = tmp_path / "engines" / "extractor" / "kind"
    with whole_folder(final) as partial:
        (partial / "plan").write_bytes(b"new")
        assert not final.exists()
    assert names(tmp_path) == ["engines", "extractor", "kind", "plan"]
    assert final.stat().st_mode & 0o777 == 0o755


def test_a_new_folder_takes_the_place_of_an_old_one_whole(tmp_path: Path) -> None:
    final = tmp_path / "kind"
    final.mkdir()
    (final / "left over").write_bytes(b"old")
    with whole_folder(final) as partial:
        (partial / "plan").write_bytes(b"new")
    assert names(tmp_path) == ["kind", "plan"]


@pytest.mark.parametrize("failure", [EngineError("no", hint="x"), KeyboardInterrupt(), SystemExit(1)])
def test_nothing_stays_behind_when_it_goes_wrong(tmp_path: Path, failure: BaseException) -> None:
    def write(final: Path) -> None:
        with whole_folder(final) as partial:
            (partial / "plan").write_bytes(b"half of it")
            raise failure

    with pytest.raises(type(failure)):
        write(tmp_path / "a" / "b" / "kind")
    assert names(tmp_path) == []


def test_the_old_folder_stays_when_the_new_one_fails(tmp_path: Path) -> None:
    final = tmp_path / "kind"
    final.mkdir()
    (final / "plan").write_bytes(b"old")
    with pytest.raises(EngineError), whole_folder(final):
        raise EngineError("no", hint="x")
    assert (final / "plan").read_bytes() == b"old"
    assert names(tmp_path) == ["kind", "plan"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EngineError, match="cannot write to") as caught, whole_folder(tmp_path / "file" / "kind"):
        pass
    assert "--out" in caught.value.hint
