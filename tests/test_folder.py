"""Which files of a folder are taken, by every command alike; the rest is told."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from difffake.errors import LimitExceededError, MediaNotFoundError
from difffake.folder import left_out_in_words, media_in
from difffake.media import check_readable


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_what_is_no_video_by_its_name_is_named_and_not_forgotten(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.MP4", "a.gif", "photo.jfif", "tape.vob", "d3b07384", "notes.txt", ".DS_Store", ".cache/x.mp4")
    media = media_in(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in media.files] == [
        "a.gif",
        "b/2.MP4",
        "photo.jfif",
        "tape.vob",
    ]
    assert [path.name for path in media.left_out] == ["d3b07384", "notes.txt"]
    assert left_out_in_words(media.left_out).endswith(": d3b07384, notes.txt")
    assert left_out_in_words(media.left_out * 3).endswith(" and 3 more")


def test_linked_folders_are_looked_into_once_and_without_end(tmp_path: Path) -> None:
    touch(tmp_path, "store/anna/1.mp4", "set/2.mp4")
    (tmp_path / "set" / "anna").symlink_to(tmp_path / "store" / "anna")
    (tmp_path / "store" / "anna" / "again").symlink_to(tmp_path / "set")
    found = media_in(tmp_path / "set").files
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["set/2.mp4", "set/anna/1.mp4"]


def test_what_is_called_a_video_is_one_until_it_is_opened(tmp_path: Path) -> None:
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert [path.name for path in media_in(tmp_path).files] == ["gone.mp4", "pipe.mp4"]


def test_a_folder_that_may_not_be_looked_into_is_an_error_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be videos in it: it is not one more file that is none."""
    touch(tmp_path, "a.mp4", "closed/b.mp4")
    real = os.scandir

    def refusing(path: str) -> object:  # to root nothing is closed
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path).name != "closed")
    media = media_in(tmp_path)
    assert ([path.name for path in media.files], media.left_out) == (["a.mp4", "closed"], [])
    with pytest.raises(MediaNotFoundError, match="no right to look into this folder"):
        check_readable(tmp_path / "closed")


def test_too_many_files(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.txt")
    with pytest.raises(LimitExceededError, match="more than 1 files"):
        media_in(tmp_path, limit=1)
