"""Anchor files: exact, bound to their networks, and never trusted."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from faces_made_up import candidates
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import DIM, tiny_extractor, write_tiny_bundle

from difffake.anchors import AnchorKeeper, AnchorPool, Origin
from difffake.anchors.file import (
    KIND,
    MAX_PEOPLE,
    VERSION,
    AnchorFile,
    EnrolledPerson,
    Footage,
    add_person,
    load_anchors,
    read_anchors,
    save_anchors,
)
from difffake.anchors.pool import QUALITIES
from difffake.anchors.record import ArrayRecord, PoolRecord, seal
from difffake.bundle import IDENTITY, Bundle, FileEntry
from difffake.errors import AnchorError, DiffFakeError
from difffake.scoring import Scorer

FOOTAGE = Footage(name="clip.mp4", sha256="ab" * 32, duration_s=12.5)


def pool(seed: int = 0, identity: int = 128) -> AnchorPool:
    rng = np.random.default_rng(seed)
    faces = candidates(np.arange(8) * 0.7, rng.normal(0, 0.1, (8, identity)), seed=seed)
    return AnchorPool(
        embeddings=rng.normal(size=(8, DIM)),
        logits=faces.logit,
        times_s=faces.time_s,
        origin=Origin.ENROLLED,
        identity=faces.identity,
        yaw_deg=faces.yaw_deg,
        pitch_deg=faces.pitch_deg,
        luma=np.full(8, np.nan),
        sharpness=faces.sharpness,
    )


def person(name: str = "Ann", seed: int = 0) -> EnrolledPerson:
    return EnrolledPerson(name, pool(seed), (FOOTAGE,), 5.0)


def with_identity(bundle: Bundle, sha256: str = "cd" * 32) -> Bundle:
    """The same bundle with an identity network; nothing here runs it."""
    files = bundle.manifest.files | {IDENTITY: FileEntry(sha256, 1)}
    return replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, files=files, identity_dim=128))


@pytest.fixture
def bundle(tiny_bundle: Bundle) -> Bundle:
    return with_identity(tiny_bundle)


@pytest.fixture
def other(bundle: Bundle) -> Bundle:
    """Another extractor with the same identity network."""
    files = bundle.manifest.files | {"extractor.onnx": FileEntry("ef" * 32, 1)}
    return replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, files=files))


def assert_same(a: AnchorPool, b: AnchorPool) -> None:
    for name in ("embeddings", "identity", "logits", "times_s", *QUALITIES):
        first, second = getattr(a, name), getattr(b, name)
        assert first.dtype == second.dtype
        assert first.tobytes() == second.tobytes()
        assert first.shape == second.shape
    assert a.origin is b.origin


def test_save_and_load_is_exact(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "anchors.msgpack"
    saved = AnchorFile.of("news-1", bundle, (person(), person("Zoë", 1)))
    save_anchors(path, saved)
    loaded = load_anchors(path, bundle)
    assert loaded.warnings == ()
    assert (loaded.stream, loaded.created, loaded.difffake) == (saved.stream, saved.created, saved.difffake)
    for a, b in zip(saved.people, loaded.people, strict=True):
        assert_same(a.pool, b.pool)
        assert replace(a, pool=b.pool).__repr__() == b.__repr__()
    assert loaded.person("Zoë") is loaded.people[1]
    assert loaded.person("Zoe") is None
    again = tmp_path / "again.msgpack"
    save_anchors(again, replace(loaded, warnings=()))
    assert again.read_bytes() == path.read_bytes()
    assert [p.name for p in path.parent.iterdir()] == ["anchors.msgpack"]


def test_a_loaded_anchor_decides_as_the_saved_one(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "anchors.msgpack"
    save_anchors(path, AnchorFile.of("s", tiny_bundle, (EnrolledPerson("Ann", pool(identity=0), (FOOTAGE,), 5.0),)))
    anchor = load_anchors(path, tiny_bundle).people[0].pool
    rng = np.random.default_rng(3)
    faces = rng.normal(size=(50, DIM)).astype(np.float32), rng.normal(size=50).astype(np.float32), np.arange(50.0)
    scorer = Scorer(tiny_bundle)
    first, second = scorer.score(*faces, pool(identity=0)), scorer.score(*faces, anchor)
    assert "signed_anchor" in second
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])
    assert AnchorKeeper.enrolled(anchor).to_state() == AnchorKeeper.enrolled(pool(identity=0)).to_state()


def test_another_extractor_keeps_the_identities(bundle: Bundle, other: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "anchors.msgpack"
    add_person(path, "news-1", bundle, person())
    loaded = load_anchors(path, other)
    kept = loaded.people[0].pool
    assert kept.has_identity
    assert not kept.has_artifact
    np.testing.assert_array_equal(kept.identities, pool().identities)
    (warning,) = loaded.warnings
    assert "another extractor" in warning
    assert "difffake enroll --stream news-1" in warning


def test_another_identity_network_keeps_the_artifact_part(bundle: Bundle, tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "anchors.msgpack"
    add_person(path, "s", bundle, person())
    for now in (with_identity(tiny_bundle, "12" * 32), tiny_bundle):
        loaded = load_anchors(path, now)
        assert loaded.people[0].pool.has_artifact
        assert not loaded.people[0].pool.has_identity
        assert "identity is not compared" in loaded.warnings[0]


def test_an_anchor_of_two_other_networks_is_refused(bundle: Bundle, other: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "anchors.msgpack"
    add_person(path, "s", bundle, person())
    with pytest.raises(AnchorError, match="other networks") as caught:
        load_anchors(path, with_identity(other, "12" * 32))
    assert "difffake enroll" in caught.value.hint
    assert caught.value.exit_code == 24


def test_only_those_of_other_networks_are_left_out(bundle: Bundle, other: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "anchors.msgpack"
    photos = replace(pool(), embeddings=np.zeros((8, 0), np.float32), logits=np.full(8, np.nan, np.float32))
    save_anchors(path, AnchorFile.of("s", bundle, (person(), replace(person("Bob"), pool=photos))))
    assert [p.name for p in load_anchors(path, other).people] == ["Ann", "Bob"]
    loaded = load_anchors(path, with_identity(bundle, "12" * 32))
    assert [p.name for p in loaded.people] == ["Ann"]
    assert any("Bob was enrolled with other networks and is left out" in w for w in loaded.warnings)


def test_an_anchor_from_before_there_was_an_identity_network(
    bundle: Bundle, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    path = tmp_path / "anchors.msgpack"
    add_person(path, "s", tiny_bundle, EnrolledPerson("Ann", pool(identity=0), (FOOTAGE,), 5.0))
    assert "without an identity network" in load_anchors(path, bundle).warnings[0]


def test_people_are_added_and_replaced_in_a_file(bundle: Bundle, other: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "anchors.msgpack"
    add_person(path, "s", bundle, person())
    path.chmod(0o640)
    add_person(path, "s", bundle, person("Bob", 1))
    add_person(path, "s", bundle, person("Ann", 2))
    assert [p.name for p in read_anchors(path).people] == ["Ann", "Bob"]
    assert_same(read_anchors(path).people[0].pool, pool(2))
    assert path.stat().st_mode & 0o777 == 0o640
    before = path.read_bytes()
    with pytest.raises(AnchorError, match="of the stream s, not t"):
        add_person(path, "t", bundle, person())
    with pytest.raises(AnchorError, match="other networks"):
        add_person(path, "s", other, person())
    assert path.read_bytes() == before
    add_person(path, "t", bundle, person("Cyd"), overwrite=True)
    assert [p.name for p in read_anchors(path).people] == ["Cyd"]
    path.write_bytes(b"damaged")
    with pytest.raises(AnchorError):
        add_person(path, "t", bundle, person())
    add_person(path, "t", bundle, person(), overwrite=True)
    assert len(read_anchors(path).people) == 1


@pytest.mark.parametrize("name", ["", " Ann", "A\nnn", "\x1b[31mAnn", "A" * 201, "\ud800"])
def test_names_are_checked(name: str, bundle: Bundle, tmp_path: Path) -> None:
    for stream, who in (("s", name), (name, "Ann")):
        with pytest.raises(AnchorError, match="not a name"):
            add_person(tmp_path / "a", stream, bundle, person(who))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["person 1", "Person 12", "PERSON 0", "person1", "person \u0661", "somebody", "Everybody"]
)
def test_nobody_is_enrolled_under_what_the_nameless_are_called(
    name: str, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verdict about "person 1" was about the enrolled one, or about the first without a name."""
    with pytest.raises(AnchorError, match="people without a name are called") as raised:
        add_person(tmp_path / "a", "s", bundle, person(name))
    assert "guest 1" in raised.value.hint
    assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as earlier:  # a file of before
        earlier.setattr("difffake.anchors.file._NAMELESS", re.compile("nobody"))
        add_person(tmp_path / "a", "s", bundle, person(name))
    with pytest.raises(AnchorError, match="people without a name"):
        load_anchors(tmp_path / "a", bundle)


@pytest.mark.parametrize("name", ["person", "person A", "guest 1", "Person 1 (studio)", "a person 1"])
def test_other_names_with_such_words_are_names(name: str, bundle: Bundle, tmp_path: Path) -> None:
    add_person(tmp_path / "a", "person 1", bundle, person(name))
    assert [p.name for p in read_anchors(tmp_path / "a").people] == [name]


def test_files_that_make_no_sense_are_not_written(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "a"
    short = replace(person("Bob"), pool=pool(identity=64))
    long = replace(person(), footage=(FOOTAGE,) * 1000)
    own = replace(person(), pool=replace(pool(), origin=Origin.SELF))
    for people in (
        (),
        (own,),
        (person(), person()),
        (person(), short),
        (long,),
        (replace(person(), fps=float("nan")),),
    ):
        with pytest.raises(AnchorError) as caught:
            save_anchors(path, AnchorFile.of("s", bundle, people))
        assert caught.value.hint
    many = tuple(person(str(i)) for i in range(MAX_PEOPLE + 1))
    with pytest.raises(AnchorError, match="257 people"):
        save_anchors(path, AnchorFile.of("s", bundle, many))
    (tmp_path / "file").touch()
    with pytest.raises(DiffFakeError, match="cannot be written"):
        save_anchors(tmp_path / "file" / "a", AnchorFile.of("s", bundle, (person(),)))


def _array(dtype: str, shape: tuple[int, ...], data: bytes) -> ArrayRecord:
    return ArrayRecord(dtype, shape, data)  # type: ignore[arg-type]


def _body(**changed: object) -> bytes:
    """A sealed file with valid digest whose only pool has other fields."""
    record = msgspec.to_builtins(PoolRecord.of(pool())) | {
        k: msgspec.to_builtins(v) if isinstance(v, ArrayRecord) else v for k, v in changed.items()
    }
    who = {"name": "Ann", "pool": record, "footage": [], "fps": 5.0, "created": "", "trusted": False}
    return _file(people=[who])


class _Any(msgspec.Struct):
    stream: object = "s"
    created: object = ""
    difffake: object = "0"
    extractor_sha256: object = "00"
    identity_sha256: object = None
    people: object = ()


def _file(**fields: object) -> bytes:
    return seal(KIND, VERSION, _Any(**fields))


NAN = np.full((8, DIM), np.nan, "<f4")
HOSTILE = {
    "empty": b"",
    "text": b"This is no anchor file." * 10,
    "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x8c\x06system\x93.",
    "nothing but a map": msgspec.msgpack.encode({}),
    "array of 4 billion": b"\xdd\xff\xff\xff\xff",
    "bytes of 4 GB": b"\xc6\xff\xff\xff\xff",
    "deep nesting": b"\x91" * 100_000,
    "deep nesting in a field": b"\x81\xa4kind" + b"\x91" * 100_000 + b"\xc0",
    "another kind": seal("difffake-anchor-state", 1, _Any()),
    "an older version": seal(KIND, 0, _Any()),
    "a newer version": seal(KIND, VERSION + 1, _Any()),
    "no digest": msgspec.msgpack.encode({"kind": KIND, "version": VERSION, "sha256": b"", "body": {}}),
    "a version that is no number": msgspec.msgpack.encode({"kind": KIND, "version": "1", "sha256": b"", "body": {}}),
    "nobody": _file(),
    "an unknown field": seal(KIND, VERSION, msgspec.defstruct("X", [("stream", str), ("code", str)])("s", "x")),
    "a stream that is no text": _file(stream=3),
    "control characters": _file(stream="\x1b[2J"),
    "NaN": _body(embeddings=_array("<f4", (8, DIM), NAN.tobytes())),
    "NaN among times": _body(times_s=_array("<f8", (8,), np.full(8, np.nan).tobytes())),
    "a huge shape": _body(embeddings=_array("<f4", (2**40, 2**40), b"")),
    "a negative shape": _body(embeddings=_array("<f4", (-8, -DIM), bytes(8 * DIM * 4))),
    "a shape of other size": _body(embeddings=_array("<f4", (8, DIM + 1), bytes(8 * DIM * 4))),
    "more anchors than allowed": _body(embeddings=_array("<f4", (2000, 1), bytes(8000))),
    "another dtype": _body(embeddings=_array("<f8", (8, DIM), bytes(8 * DIM * 8))),
    "a dtype that is code": _body(embeddings=_array("O", (8, DIM), bytes(8 * DIM * 4))),
    "flat embeddings": _body(embeddings=_array("<f4", (8,), bytes(32))),
    "many dimensions": _body(embeddings=_array("<f4", (1,) * 64, bytes(4))),
    "another origin": _body(origin="nowhere"),
    "a stream's own anchor": _body(origin="self"),
    "no embedding at all": _body(embeddings=_array("<f4", (8, 0), b""), identity=_array("<f4", (8, 0), b"")),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(case: str, bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "anchors.msgpack"
    path.write_bytes(HOSTILE[case])
    with pytest.raises(AnchorError) as caught:
        load_anchors(path, bundle)
    assert caught.value.hint
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("field", ["embeddings", "identity"])
def test_embeddings_that_no_network_gives_are_refused(field: str) -> None:
    """They are finite, and their squares are not: nobody was anybody's likeness, and the state that followed could not
    be read again."""
    whole = PoolRecord.of(pool())
    PoolRecord.of(replace(pool(), **{field: getattr(pool(), field) * 1000})).pool()
    huge = ArrayRecord.of(np.full_like(getattr(pool(), field), 1e30))
    with pytest.raises(AnchorError, match=f"{field} beyond") as caught:
        msgspec.structs.replace(whole, **{field: huge}).pool()
    assert caught.value.hint


def test_a_newer_version_says_so(tmp_path: Path) -> None:
    path = tmp_path / "anchors.msgpack"
    path.write_bytes(HOSTILE["a newer version"])
    with pytest.raises(AnchorError, match="newer difffake") as caught:
        read_anchors(path)
    assert "upgrade" in caught.value.hint


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "anchors.msgpack"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(AnchorError, match="64 MiB"):
        read_anchors(path)


@pytest.mark.parametrize("path", ["nothing.msgpack", ".", "a\x00b"])
def test_what_is_no_file(path: str, tmp_path: Path) -> None:
    with pytest.raises(AnchorError):
        read_anchors(tmp_path / path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_noticed(data: st.DataObject, bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "anchors.msgpack"
    save_anchors(path, AnchorFile.of("s", bundle, (person(),)))
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "splice"]))
    change = {
        "flip": lambda: whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :],
        "cut": lambda: whole[:at],
        "insert": lambda: whole[:at] + data.draw(st.binary(min_size=1, max_size=9)) + whole[at:],
        "splice": lambda: whole[:at] + whole[at // 2 :] + b"x",
    }
    path.write_bytes(change[kind]())
    with pytest.raises(AnchorError) as caught:
        load_anchors(path, bundle)
    assert caught.value.hint


def test_the_file_knows_the_bundles_own_network(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """The digest is that of the ONNX file: a bundle copied elsewhere is the same, one with another seed is not."""
    path = tmp_path / "anchors.msgpack"
    add_person(path, "s", tiny_bundle, EnrolledPerson("Ann", pool(identity=0), (FOOTAGE,), 5.0))
    shutil.copytree(tiny_bundle.path, tmp_path / "copy")
    assert load_anchors(path, Bundle.load(tmp_path / "copy")).people[0].pool.has_artifact
    assert tiny_extractor(1) != tiny_extractor(0)
    with pytest.raises(AnchorError, match="other networks"):
        load_anchors(path, write_tiny_bundle(tmp_path / "other", seed=1))
