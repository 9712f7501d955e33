"""`difffake evaluate` from files to figures on tiny trees in the layouts of published data sets, with real faces."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from difffake.bundle import Bundle
from stream.cli import main

PEOPLE = 2


@dataclass(frozen=True)
class Tree:
    """Where real and fake videos lie; `{i}` and `{j}` are two people, two digits each."""

    layout: str
    real: tuple[str, ...]
    fake: tuple[str, ...]
    options: tuple[str, ...] = ()
    texts: dict[str, str] = field(default_factory=dict)
    methods: tuple[str, ...] = ()

    def build(self, root: Path, clips: dict[str, Path]) -> None:
        for label, names in (("real", self.real), ("fake", self.fake)):
            for name in names:
                for i in range(PEOPLE):
                    path = root / name.format(i=f"{i:02}", j=f"{(i + 1) % PEOPLE:02}")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(clips[label], path)
        for name, text in self.texts.items():
            (root / name).write_text(text)


TREES = (
    Tree(
        "ffpp",
        ("original_sequences/youtube/c23/videos/0{i}.mp4",),
        (
            "manipulated_sequences/Deepfakes/c23/videos/0{i}_0{j}.mp4",
            "manipulated_sequences/NeuralTextures/c23/videos/0{i}_0{j}.mp4",
        ),
        ("--compression", "c23"),
        methods=("Deepfakes", "NeuralTextures"),
    ),
    Tree(
        "celebdf",
        ("Celeb-real/id{i}_0000.mp4", "YouTube-real/000{i}.mp4"),
        ("Celeb-synthesis/id{i}_id{j}_0000.mp4",),
        texts={
            "List_of_testing_videos.txt": "1 Celeb-real/id00_0000.mp4\n1 Celeb-real/id01_0000.mp4\n"
            "1 YouTube-real/00000.mp4\n0 Celeb-synthesis/id00_id01_0000.mp4\n0 Celeb-synthesis/id01_id00_0000.mp4\n"
        },
    ),
    Tree(
        "dfd",
        ("original_sequences/actors/c40/videos/{i}__hugging_happy.mp4",),
        ("manipulated_sequences/DeepFakeDetection/c40/videos/{i}_{j}__hugging_happy__ABCDEFGH.mp4",),
        ("--compression", "c40"),
    ),
    Tree(
        "dfdc",
        ("dfdc_train_part_0/real{i}.mp4",),
        ("dfdc_train_part_0/fake{i}.mp4",),
        ("--subject", "main"),
        texts={
            "dfdc_train_part_0/metadata.json": json.dumps(
                {
                    **{f"real{i:02}.mp4": {"label": "REAL", "split": "train"} for i in range(PEOPLE)},
                    **{
                        f"fake{i:02}.mp4": {"label": "FAKE", "split": "train", "original": f"real{i:02}.mp4"}
                        for i in range(PEOPLE)
                    },
                }
            )
        },
    ),
    Tree("ffiw", ("source/val/val_000000{i}.mp4",), ("target/val/val_000000{i}.mp4",)),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all trees: their videos have the same content, so that each is looked at once."""
    return tmp_path_factory.mktemp("cache")


def evaluated(tree: Tree, root: Path, bundle: Bundle, cache: Path) -> dict[str, Any]:
    arguments = ["evaluate", str(root), "--layout", tree.layout, *tree.options, "--bundle", str(bundle.path)]
    arguments += ["--fps", "4", "--max-frames", "12", "--draws", "20", "--threads", "1", "--cache", str(cache)]
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--json", str(root / "out.json"), "--markdown", str(root / "out.md")])
    assert not left.value.code
    found: dict[str, Any] = json.loads((root / "out.json").read_text())
    return found


@pytest.mark.parametrize("tree", TREES, ids=[tree.layout for tree in TREES])
def test_from_files_to_figures(
    tree: Tree, short_clips: dict[str, Path], tiny_bundle: Bundle, cache: Path, tmp_path: Path
) -> None:
    tree.build(tmp_path, short_clips)
    saved = evaluated(tree, tmp_path, tiny_bundle, cache)
    listed = saved["counts"]["videos_listed"]
    assert saved["counts"]["videos_scored"] == listed
    assert listed["fake"] == PEOPLE * len(tree.fake)
    # Celeb-DF's list leaves one of the two videos of YouTube-real out.
    assert listed["real"] == (PEOPLE * len(tree.real) if tree.layout != "celebdf" else 3)
    assert saved["counts"]["frames_scored"]["fake"] >= 8 * listed["fake"]
    assert saved["counts"]["left_out"] == {}
    assert saved["missing_files"] == []
    assert 0 <= saved["scores"]["logit"]["video"]["auc"] <= 1
    assert tuple(saved["methods"]) == tree.methods
    text = (tmp_path / "out.md").read_text()
    assert f"--layout {tree.layout}" in text
    assert "| `" in text or "| logit |" in text
    # A genuine video anchors its own fakes, where one face is judged throughout.
    if tree.layout != "ffiw":
        assert saved["counts"]["anchored_pairs"] == PEOPLE
        assert saved["scores"]["signed_anchor"]["video"]["auc"] == 1.0
    else:
        assert "signed_anchor" not in saved["scores"]
