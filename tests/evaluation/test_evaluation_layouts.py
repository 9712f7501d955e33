"""Every layout as its publishers ship it; hostile or broken metadata; wrong folders."""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from difffake.errors import DataError, LimitExceededError
from difffake.evaluation import FAKE, REAL, Item, Layout, Region, layouts, list_items

WriteVideo = Callable[..., Path]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def facts(item: Item) -> tuple[int, str, str | None, str]:
    return item.label, item.person, item.pair, item.method


def by_video(items: tuple[Item, ...]) -> dict[str, tuple[int, str, str | None, str]]:
    return {item.video: facts(item) for item in items}


@pytest.fixture
def ffpp(tmp_path: Path) -> Path:
    for quality in ("raw", "c23", "c40"):
        touch(
            tmp_path,
            *(f"original_sequences/youtube/{quality}/videos/{n}.mp4" for n in ("000", "003", "100")),
            *(f"manipulated_sequences/Deepfakes/{quality}/videos/{n}.mp4" for n in ("000_003", "003_000")),
            f"manipulated_sequences/FaceShifter/{quality}/videos/100_200.mp4",
        )
    touch(tmp_path, "manipulated_sequences/DeepFakeDetection/c23/videos/01_02__scene__ABCDEFGH.mp4")
    return tmp_path


def test_ffpp(ffpp: Path) -> None:
    listing = list_items(Layout.FFPP, ffpp)
    fake = "manipulated_sequences/{}/c23/videos/{}"
    assert by_video(listing.items) == {
        **{f"original_sequences/youtube/c23/videos/{n}": (REAL, n, n, "") for n in ("000", "003", "100")},
        fake.format("Deepfakes", "000_003"): (FAKE, "000", "000", "Deepfakes"),
        fake.format("Deepfakes", "003_000"): (FAKE, "003", "003", "Deepfakes"),
        fake.format("FaceShifter", "100_200"): (FAKE, "100", "100", "FaceShifter"),
    }
    assert any("No split file" in note for note in listing.notes)


@pytest.mark.parametrize(("compression", "folder"), [("c0", "raw"), ("c40", "c40")])
def test_ffpp_compression(ffpp: Path, compression: str, folder: str) -> None:
    items = list_items(Layout.FFPP, ffpp, compression=compression).items
    assert {item.path.parent.parent.name for item in items} == {folder}
    assert len(items) == 6


def test_ffpp_official_split(ffpp: Path, tmp_path: Path) -> None:
    split = tmp_path / "test.json"
    split.write_text('[["000", "003"]]')
    listing = list_items(Layout.FFPP, ffpp, split=split)
    assert sorted(item.path.stem for item in listing.items) == ["000", "000_003", "003", "003_000"]
    assert listing.notes == ()


@pytest.mark.parametrize("text", ["{", '{"a": 1}', '[["000"]]', '[["000", 3]]', ""])
def test_ffpp_broken_split(ffpp: Path, tmp_path: Path, text: str) -> None:
    split = tmp_path / "test.json"
    split.write_text(text)
    with pytest.raises(DataError, match="not an FF\\+\\+ split") as caught:
        list_items(Layout.FFPP, ffpp, split=split)
    assert '["953", "974"]' in caught.value.hint


def test_ffpp_strange_names_are_counted(ffpp: Path) -> None:
    touch(ffpp, "original_sequences/youtube/c23/videos/copy of 000.mp4")
    listing = list_items(Layout.FFPP, ffpp)
    assert listing.skipped == {"file name not as in ffpp": 1}


@pytest.fixture
def celebdf(tmp_path: Path) -> Path:
    touch(
        tmp_path,
        "Celeb-real/id0_0000.mp4",
        "Celeb-real/id0_0001.mp4",
        "YouTube-real/00170.mp4",
        "Celeb-synthesis/id0_id16_0000.mp4",
        "Celeb-synthesis/id1_id0_0003.mp4",
    )
    return tmp_path


def test_celebdf_without_its_list(celebdf: Path) -> None:
    listing = list_items(Layout.CELEBDF, celebdf)
    assert by_video(listing.items) == {
        "celeb-real/id0_0000": (REAL, "id0", "id0_0000", ""),
        "celeb-real/id0_0001": (REAL, "id0", "id0_0001", ""),
        "youtube-real/00170": (REAL, "youtube-real/00170", None, ""),
        "celeb-synthesis/id0_id16_0000": (FAKE, "id0", "id0_0000", ""),
        "celeb-synthesis/id1_id0_0003": (FAKE, "id1", "id1_0003", ""),
    }
    assert listing.notes


def test_celebdf_official_list_and_missing_files(celebdf: Path) -> None:
    (celebdf / "List_of_testing_videos.txt").write_text(
        "1 YouTube-real/00170.mp4\n0 Celeb-synthesis/id0_id16_0000.mp4\n0 Celeb-synthesis/id9_id8_0000.mp4\n\n"
    )
    listing = list_items(Layout.CELEBDF, celebdf)
    assert [item.label for item in listing.items] == [REAL, FAKE]
    assert listing.missing == ("celeb-synthesis/id9_id8_0000.mp4",)
    assert listing.notes == ()


def test_celebdf_folders_with_videos_inside(tmp_path: Path) -> None:
    touch(tmp_path, "Celeb-real/videos/id0_0000.mp4", "Celeb-synthesis/videos/id0_id1_0000.mp4")
    touch(tmp_path, "Youtube-real/videos/00001.mp4")
    assert len(list_items(Layout.CELEBDF, tmp_path).items) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 Celeb-synthesis/id0_id16_0000.mp4", "does not fit its folder"),
        ("2 Celeb-real/id0_0000.mp4", "line 1"),
        ("Celeb-real/id0_0000.mp4", "line 1"),
        ("1 ../id0_0000.mp4", "outside its folder"),
        ("1 Celeb-real/../../id0_0000.mp4", "line 1"),
        ("1 Celeb-real/" + "a" * 600 + ".mp4", "outside its folder"),
    ],
)
def test_celebdf_hostile_list(celebdf: Path, line: str, message: str) -> None:
    (celebdf / "List_of_testing_videos.txt").write_text(line)
    with pytest.raises(DataError, match=message):
        list_items(Layout.CELEBDF, celebdf)


def test_dfd(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "original_sequences/actors/c40/videos/01__exit_phone_room.mp4",
        "original_sequences/actors/c40/videos/notes.txt",
        "manipulated_sequences/DeepFakeDetection/c40/videos/01_02__exit_phone_room__YVGY8LOK.mp4",
        "manipulated_sequences/DeepFakeDetection/c40/videos/strange.mp4",
    )
    listing = list_items(Layout.DFD, tmp_path, compression="c40")
    assert [facts(item) for item in listing.items] == [
        (REAL, "01", "01__exit_phone_room", ""),
        (FAKE, "01", "01__exit_phone_room", ""),
    ]
    assert listing.skipped == {"file name not as in dfd": 1}


def test_dfdc_metadata(tmp_path: Path) -> None:
    for part in ("dfdc_train_part_0", "dfdc_train_part_1"):
        touch(tmp_path, f"{part}/real.mp4", f"{part}/fake.mp4")
        (tmp_path / part / "metadata.json").write_text(
            json.dumps(
                {
                    "real.mp4": {"label": "REAL", "split": "train", "original": None},
                    "fake.mp4": {"label": "FAKE", "split": "train", "original": "real.mp4"},
                    "gone.mp4": {"label": "FAKE", "split": "train", "original": "real.mp4"},
                }
            )
        )
    listing = list_items(Layout.DFDC, tmp_path)
    # Parts do not mix, though their files share names.
    assert by_video(listing.items) == {
        f"{part}/{name}": (label, f"{part}/real", f"{part}/real", "")
        for part in ("dfdc_train_part_0", "dfdc_train_part_1")
        for name, label in (("real", REAL), ("fake", FAKE))
    }
    assert listing.missing == ("dfdc_train_part_0/gone", "dfdc_train_part_1/gone")


def test_dfdc_labels_and_test_metadata(tmp_path: Path) -> None:
    touch(tmp_path, "a/videos/x.mp4", "a/videos/y.mp4", "b/z.mp4")
    (tmp_path / "a" / "labels.csv").write_text("\ufefffilename,label\nx.mp4,0\ny.mp4,FAKE\n", encoding="utf-8")
    (tmp_path / "b" / "metadata.json").write_text('{"z.mp4": {"is_fake": 1, "augmentations": {}}}')
    items = list_items(Layout.DFDC, tmp_path).items
    assert {item.path.name: item.label for item in items} == {"x.mp4": REAL, "y.mp4": FAKE, "z.mp4": FAKE}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.json", "[1, 2]", "not a DFDC metadata"),
        ("metadata.json", '{"a.mp4": {"label": "MAYBE"}}', "no label"),
        ("metadata.json", '{"a.mp4": {}}', "no label"),
        ("metadata.json", '{"../a.mp4": {"label": "FAKE"}}', "outside its folder"),
        ("metadata.json", '{"/etc/passwd": {"label": "FAKE"}}', "outside its folder"),
        ("metadata.json", '{"a.mp4": {"label": "FAKE", "original": "../../b.mp4"}}', "outside its folder"),
        ("metadata.json", "[" * 100_000, "not a DFDC metadata"),
        ("metadata.json", '{"a.mp4": {"label": "\udcff"}}', "not a DFDC metadata"),
        ("labels.csv", "file,label\na.mp4,1\n", "without a file name"),
        ("labels.csv", "filename,label\na.mp4,2\n", "no label"),
        ("labels.csv", 'filename,label\n"a.mp4,1\n', "not a table"),
        ("labels.csv", "filename;label\r\na.mp4;1\r\n", "without a file name"),
        ("labels.csv", "filename,label\r\na.mp4,1\r\nb.mp4,0\r\na.mp4,0\r\n", "says two things of a.mp4"),
    ],
)
def test_dfdc_hostile_metadata(tmp_path: Path, name: str, content: str, message: str) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / name).write_text(content, "utf-8", "surrogateescape")
    with pytest.raises(DataError, match=message):
        list_items(Layout.DFDC, tmp_path)


def test_a_split_that_a_layout_cannot_take(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.mp4", "fake/a.mp4")
    with pytest.raises(DataError, match="folders takes no split"):
        list_items(Layout.FOLDERS, tmp_path, split=tmp_path / "test.json")


def test_two_tables_that_do_not_agree(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "metadata.json").write_text('{"a.mp4": {"label": "FAKE"}, "b.mp4": {"label": "REAL"}}')
    (tmp_path / "labels.csv").write_text("filename,label\na.mp4,1\nb.mp4,0\n")
    assert len(list_items(Layout.DFDC, tmp_path).items) == 2
    (tmp_path / "labels.csv").write_text("filename,label\na.mp4,1\nb.mp4,1\n")
    with pytest.raises(DataError, match="do not agree"):
        list_items(Layout.DFDC, tmp_path)


def test_metadata_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metadata.json").write_text('{"a.mp4": {"label": "FAKE"}, "b.mp4": {"label": "REAL"}}')
    monkeypatch.setattr("difffake.evaluation.metadata.MAX_ROWS", 1)
    with pytest.raises(DataError, match="2 rows"):
        list_items(Layout.DFDC, tmp_path)
    monkeypatch.setattr("difffake.evaluation.metadata.MAX_BYTES", 8)
    with pytest.raises(DataError, match="larger than 8"):
        list_items(Layout.DFDC, tmp_path)


def test_metadata_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="not UTF-8"):
        list_items(Layout.DFDC, tmp_path)


def test_ffiw(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "source/val/val_00000000.mp4",
        "target/val/val_00000000.mp4",
        "source/test/videos/test_00000001.mp4",
        "target/test/videos/test_00000001.mp4",
        "target_mask/val/val_00000000_mask.mp4",
    )
    assert by_video(list_items(Layout.FFIW, tmp_path).items) == {
        "source/val/val_00000000": (REAL, "val/val_00000000", "val/val_00000000", ""),
        "target/val/val_00000000": (FAKE, "val/val_00000000", "val/val_00000000", ""),
        "source/test/test_00000001": (REAL, "test/test_00000001", "test/test_00000001", ""),
        "target/test/test_00000001": (FAKE, "test/test_00000001", "test/test_00000001", ""),
    }


def test_side_by_side(tmp_path: Path, write_video: WriteVideo) -> None:
    write_video(tmp_path / "Ann_1.mp4", [(90, 90, 90)] * 2, size=(128, 48))
    write_video(tmp_path / "Bob_1.mp4", [(90, 90, 90)] * 2, size=(64, 48))
    (tmp_path / "text.mp4").write_text("not a video")
    listing = list_items(Layout.SIDE_BY_SIDE, tmp_path)
    assert [(i.region, *facts(i)) for i in listing.items] == [
        (Region.LEFT, REAL, "Ann_1", "Ann_1", ""),
        (Region.RIGHT, FAKE, "Ann_1", "Ann_1", ""),
    ]
    assert listing.skipped["swap only, no genuine half"] == 1
    assert sum(listing.skipped.values()) == 2
    assert any(reason.startswith("unreadable") for reason in listing.skipped)


def test_folders_pair_by_name_and_group_by_folder(tmp_path: Path) -> None:
    touch(tmp_path, "real/ann/1.mp4", "real/ann/2.jpg", "fake/ann/1.mov", "fake/solo.png", "real/.hidden.mp4")
    touch(tmp_path, "real/notes.txt")
    assert by_video((listing := list_items(Layout.FOLDERS, tmp_path)).items) == {
        "real/ann/1.mp4": (REAL, "ann", "ann/1", ""),
        "real/ann/2.jpg": (REAL, "ann", "ann/2", ""),
        "fake/ann/1.mov": (FAKE, "ann", "ann/1", ""),
        "fake/solo.png": (FAKE, "solo", "solo", ""),
    }
    assert sum(listing.skipped.values()) == 1  # the notes: told, since whatever else is no video might have been one


@pytest.mark.parametrize("layout", list(Layout))
def test_a_wrong_folder_shows_what_was_expected(layout: Layout, tmp_path: Path) -> None:
    touch(tmp_path, "something/else.txt")
    with pytest.raises(DataError, match="no real video found") as caught:
        list_items(layout, tmp_path)
    assert caught.value.hint.startswith("expected there: ")


def test_a_class_that_is_missing_and_a_folder_that_is_missing(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.mp4")
    with pytest.raises(DataError, match="no fake video found"):
        list_items(Layout.FOLDERS, tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        list_items(Layout.FOLDERS, tmp_path / "nowhere")


def test_a_list_that_names_only_absent_files(celebdf: Path) -> None:
    (celebdf / "List_of_testing_videos.txt").write_text("1 YouTube-real/1.mp4\n0 Celeb-synthesis/id0_id1_9.mp4\n")
    with pytest.raises(DataError, match="2 listed files are not there"):
        list_items(Layout.CELEBDF, celebdf)


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "real/a.mp4", "real/b.mp4", "fake/a.mp4")
    monkeypatch.setattr("difffake.evaluation.layouts.MAX_ITEMS", 1)
    with pytest.raises(LimitExceededError, match="more than 1 files"):
        list_items(Layout.FOLDERS, tmp_path)


def test_a_folder_that_may_not_be_looked_into_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(path: object) -> object:  # to root nothing is closed
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match="no right to look into this folder"):
        list(layouts.folder_items(tmp_path, 0, "real", Counter()))
