from __future__ import annotations

import io
import tarfile
from collections import Counter
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pytest
from faces_on_disk import drawn_store
from full_disk import largest_file

from difffake.errors import DataError, OutputError
from difffake.faces import template
from difffake.training.crops import CropSettings, prepare, read_photo
from difffake.training.sources import Kind, SourceLimits, person_key, read_items
from difffake.training.store import STORE_EYE_DISTANCE, STORE_SIDE_PX, CropStore, CropWriter
from difffake.video import open_video


@pytest.fixture(scope="module")
def photo(clips: dict[str, Path]) -> bytes:
    """A frame with one real face, as JPEG."""
    with open_video(clips["woman"], fps=1) as video:
        image = next(iter(video)).image
    return bytes(cv2.imencode(".jpg", image[..., ::-1])[1])


def make_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("source", "member", "key"),
    [
        ("lfw", "lfw/Ann_Lee/Ann_Lee_0001.jpg", "lfw/Ann_Lee"),
        ("lfw", "Ann_Lee/Ann_Lee_0001.jpg", "lfw/Ann_Lee"),
        ("ffhq600", "ffhq600/10.jpg", "ffhq600/10"),
        ("london", "./london/001/neutral_front.jpg", "london/001"),
        ("clips", "grid_1.mpg", "clips/grid_1"),
        ("one", "anna/1.jpg", "one/anna"),
    ],
)
def test_a_person_is_a_folder_or_else_a_file(source: str, member: str, key: str) -> None:
    assert person_key(source, PurePosixPath(member)) == key


def test_tar_members_are_counted_never_extracted(tmp_path: Path) -> None:
    archive = make_tar(
        tmp_path / "set.tar",
        {"set/a/1.jpg": b"x", "../../evil.jpg": b"y", "set/readme.txt": b"z", "set/b/2.jpg": b"w" * 99},
    )
    with tarfile.open(archive, "a") as appended:
        link = tarfile.TarInfo("set/c/3.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        appended.addfile(link)
    skipped: Counter[str] = Counter()
    items = list(read_items(archive, SourceLimits(max_image_bytes=50), skipped))
    assert [item.person for item in items] == ["set/a", "set/evil"]
    assert skipped == {"not_an_image": 2, "too_many_bytes": 1}
    assert list(tmp_path.iterdir()) == [archive]


def test_too_many_files_and_a_damaged_tar_are_named(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "set.tar", {f"set/{i}.jpg": b"x" for i in range(5)})
    with pytest.raises(DataError, match="more than 3 files"):
        list(read_items(archive, SourceLimits(max_files=3), Counter()))
    (tmp_path / "broken.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(DataError, match="damaged"):
        list(read_items(tmp_path / "broken.tar", SourceLimits(), Counter()))


def test_photos_are_bounded_before_they_are_decoded(photo: bytes) -> None:
    image = read_photo(photo, 10**6)
    assert image is not None
    assert image.shape == (360, 640, 3)
    assert read_photo(photo, 1000) is None
    assert read_photo(photo[: len(photo) // 2], 10**6) is None
    assert read_photo(b"not an image", 10**6) is None


def test_a_store_is_made_of_folders_tars_and_clips(tmp_path: Path, photo: bytes, clips: dict[str, Path]) -> None:
    grey = bytes(cv2.imencode(".png", np.full((200, 200, 3), 128, np.uint8))[1])
    folder = tmp_path / "folder"
    (folder / "ann").mkdir(parents=True)
    (folder / "ann" / "1.jpg").write_bytes(photo)
    (folder / "grey.png").write_bytes(grey)
    (folder / "note.txt").write_text("hello")
    (folder / "broken.jpg").write_bytes(b"broken")
    archive = make_tar(tmp_path / "set.tar", {"set/bea/1.jpg": photo, "set/bea/2.jpg": photo})
    seen: list[tuple[int, int]] = []
    settings = CropSettings(clip_fps=1.0, clip_frames=2, processes=1)
    store = prepare(
        [folder, archive, clips["man"]],
        tmp_path / "store",
        settings,
        progress=lambda done, kept: seen.append((done, kept)),
    )
    assert store.names[:2] == ("folder/ann", "set/bea")
    assert np.bincount(store.people).tolist() == [1, 2, 2]
    assert store.is_video.tolist() == [False] * 3 + [True] * 2
    assert np.isnan(store.time_s[:3]).all()
    assert store.time_s[3:].tolist() == pytest.approx([0.0, 1.2], abs=0.05)  # two, spread over 2.4 s
    expected = template(STORE_SIDE_PX, eye_distance=STORE_EYE_DISTANCE)
    assert np.abs(store.landmarks - expected).max() < 20  # aligned: near the template, not on it
    assert seen[-1] == (6, 5)
    meta = (tmp_path / "store" / "meta.json").read_text()
    assert '"folder":{"not_an_image":1,"unreadable":1,"no_face":1}' in meta
    with pytest.raises(DataError, match="exists already"):
        prepare([folder], tmp_path / "store", settings)


def test_without_a_face_there_is_no_store(tmp_path: Path) -> None:
    folder = tmp_path / "grey"
    folder.mkdir()
    cv2.imwrite(str(folder / "1.png"), np.full((200, 200, 3), 128, np.uint8))
    with pytest.raises(DataError, match="no crop could be made of 1 files; passed over: of grey 1 no_face"):
        prepare([folder], tmp_path / "store", CropSettings(processes=1))
    assert not (tmp_path / "store").exists()
    drawn_store(tmp_path / "store", people=2, clips=0)
    with pytest.raises(DataError, match="no crop"):
        prepare([folder], tmp_path / "store", CropSettings(processes=1), overwrite=True)
    assert len(CropStore.load(tmp_path / "store")) > 0
    assert not (tmp_path / "store.partial").exists()


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    def write(count: int) -> None:
        with CropWriter(tmp_path / "store", side_px=STORE_SIDE_PX, eye_distance=STORE_EYE_DISTANCE) as writer:
            for _ in range(count):
                writer.append(
                    np.zeros((STORE_SIDE_PX, STORE_SIDE_PX, 3), np.uint8), template(STORE_SIDE_PX),
                    person="a", source="b", kind=Kind.PHOTO, time_s=None, eye_distance_px=60.0,
                )  # fmt: skip

    with largest_file(2**18), pytest.raises(OutputError, match="store: cannot be written") as caught:
        write(3)
    assert "space" in caught.value.hint
    assert list(tmp_path.iterdir()) == []
    with largest_file(100), pytest.raises(OutputError, match="cannot be written"):
        write(0)
    assert list(tmp_path.iterdir()) == []


def test_missing_and_equally_named_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such source"):
        prepare([tmp_path / "absent"], tmp_path / "store")
    for parent in "ab":
        (tmp_path / parent / "faces").mkdir(parents=True)
    with pytest.raises(DataError, match="two sources"):
        prepare([tmp_path / "a" / "faces", tmp_path / "b" / "faces"], tmp_path / "store")


@pytest.mark.parametrize("damage", ["missing", "short", "json", "landmarks"])
def test_a_damaged_store_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "store"
    drawn_store(path, people=2, clips=0)
    target = {"landmarks": "landmarks.npy", "json": "meta.json"}.get(damage, "crops.u8")
    if damage == "missing":
        (path / target).unlink()
    else:
        data = (path / target).read_bytes()
        (path / target).write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError):
        CropStore.load(path)
