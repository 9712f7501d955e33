"""Tokens, limits and the audit trail."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wall_world import TOKEN, Clock

from stream.wall.access import TOKEN_ENV, Limiter, Operators, TokenError, TooManyError
from stream.wall.audit import Audit, AuditError


class TestOperators:
    def test_a_token_has_one_name(self) -> None:
        operators = Operators({"ada": TOKEN, "bo": TOKEN[::-1]})
        assert operators.who(f"Bearer {TOKEN}") == "ada"
        assert operators.who(f"bearer {TOKEN[::-1]}") == "bo"

    @given(st.text(max_size=80))
    def test_nothing_else_opens(self, header: str) -> None:
        assert Operators({"ada": TOKEN}).who(header) is None

    @pytest.mark.parametrize(
        "header", [None, "", "Bearer", "Bearer ", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x"]
    )
    def test_what_nearly_fits_does_not(self, header: str | None) -> None:
        assert Operators({"ada": TOKEN}).who(header) is None

    def test_without_tokens_nobody_is_an_operator(self) -> None:
        assert not Operators.load(None, {})
        assert Operators({}).who("Bearer ") is None

    def test_from_the_environment(self) -> None:
        assert Operators.load(None, {TOKEN_ENV: TOKEN}).who(f"Bearer {TOKEN}") == "operator"

    def test_from_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "tokens"
        file.write_text(f"# the night shift\nada {TOKEN}\n\nbo  {TOKEN[::-1]}\n")
        assert Operators.load(file, {}).who(f"Bearer {TOKEN[::-1]}") == "bo"

    @pytest.mark.parametrize(
        "text", ["", "ada\n", f"ada {TOKEN} extra\n", f"ada {TOKEN}\nada {TOKEN[::-1]}\n", f"ada {TOKEN}\nbo {TOKEN}\n"]
    )
    def test_a_file_that_does_not_say_who_has_which_is_refused(self, tmp_path: Path, text: str) -> None:
        file = tmp_path / "tokens"
        file.write_text(text)
        with pytest.raises(TokenError):
            Operators.load(file, {})

    def test_a_file_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(TokenError, match="nowhere"):
            Operators.load(tmp_path / "nowhere", {})

    @pytest.mark.parametrize(
        "token", ["brief", "x" * 600, "pässword-that-is-long-enough", "line\nbreak-line-break-line"]
    )
    def test_a_token_that_protects_nothing_is_refused(self, token: str) -> None:
        with pytest.raises(TokenError) as caught:
            Operators({"ada": token})
        assert "token_urlsafe" in caught.value.hint
        assert token not in str(caught.value)


class TestLimiter:
    def test_so_many_in_a_while_and_then_again(self) -> None:
        clock = Clock()
        limiter = Limiter(2, 60, monotonic=clock)
        for _ in range(2):
            limiter.check("a")
            limiter.count("a")
        with pytest.raises(TooManyError) as caught:
            limiter.check("a")
        assert caught.value.wait_s == pytest.approx(60)
        limiter.check("b")
        clock.advance(61)
        limiter.check("a")

    def test_addresses_that_come_and_go_take_no_memory(self) -> None:
        limiter = Limiter(2, 60)
        for number in range(20_000):
            limiter.count(str(number))
        assert len(limiter._seen) <= 1024


class TestAudit:
    def test_every_line_is_there_and_only_its_owner_may_read_it(self, tmp_path: Path) -> None:
        file = tmp_path / "audit.jsonl"
        audit = Audit(file)
        audit.write("accepted", who="ada", address="127.0.0.1", action={"act": "freeze", "stream": "a\nb"})
        audit.write("sent", who="ada", address="127.0.0.1", action={"id": "1"})
        lines = [msgspec.json.decode(line) for line in file.read_bytes().splitlines()]
        assert [(line["outcome"], line["who"], line["address"]) for line in lines] == [
            ("accepted", "ada", "127.0.0.1"),
            ("sent", "ada", "127.0.0.1"),
        ]
        assert lines[0]["action"] == {"act": "freeze", "stream": "a\nb"}
        assert file.stat().st_mode & 0o777 == 0o600

    def test_half_a_line_is_an_error_and_the_next_line_is_whole(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file, whole_write = tmp_path / "audit.jsonl", os.write
        # A disk with so many bytes left for each line; the fifth ends the one that was cut off before.
        room = [10_000, 40, 10_000, 40, 1, 10_000]
        monkeypatch.setattr(os, "write", lambda handle, data: whole_write(handle, data[: room.pop(0)]) if data else 0)

        def line(audit: Audit) -> None:
            audit.write("accepted", who="ada", address="127.0.0.1", action={"act": "mute", "seconds": 604800})

        audit = Audit(file)
        line(audit)
        with pytest.raises(AuditError, match="space"):
            line(audit)
        line(audit)
        with pytest.raises(AuditError, match="space"):
            line(audit)
        line(Audit(file))
        rows = file.read_bytes().splitlines()
        assert [row.endswith(b"}") for row in rows] == [True, False, True, False, True]

    def test_a_file_that_cannot_be_written_is_told_at_the_start(self, tmp_path: Path) -> None:
        with pytest.raises(AuditError):
            Audit(tmp_path / "no" / "such" / "folder")
