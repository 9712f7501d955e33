"""Who may act: bearer tokens, compared in constant time, with failures limited by address.

A token travels in a header that a page of another site cannot set, never in an address or a cookie: nothing else is
needed against forged requests.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from pathlib import Path

from difffake.errors import DiffFakeError

TOKEN_ENV = "DIFFFAKE_WALL_TOKEN"  # noqa: S105  (the name of a variable)
MIN_TOKEN = 20
_MAX_TOKEN = 512
_MAX_FILE_BYTES, _MAX_OPERATORS = 64 << 10, 256
_MAX_ADDRESSES = 1024
_SCHEME = "bearer "


class TokenError(DiffFakeError, ValueError):
    """A token that would protect nothing, or a file of tokens that cannot be used."""

    exit_code = 43


class TooManyError(Exception):
    """More tries, or more actions, than are allowed; ``wait_s``: until the next one may be made."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"wait {wait_s:.0f} s")
        self.wait_s = wait_s


class Operators:
    """Names by token; only digests are kept.

    Args:
        tokens: name -> token.

    Raises:
        TokenError: a token shorter than `MIN_TOKEN`, the same twice, or a name that no record can carry.
    """

    def __init__(self, tokens: Mapping[str, str]) -> None:
        for name, token in tokens.items():
            if not 0 < len(name) <= 64 or not name.isprintable():
                raise TokenError(f"{name!r} is no name of an operator", hint="give 1 to 64 printable characters")
            if not (MIN_TOKEN <= len(token) <= _MAX_TOKEN and token.isascii() and token.isprintable()):
                raise TokenError(
                    f"the token of {name} is too short to protect anything, or no plain text",
                    hint="make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
                )
        self._digests = {name: _digest(token) for name, token in tokens.items()}
        if len(set(self._digests.values())) < len(self._digests):
            raise TokenError("two operators have the same token", hint="give everyone one of their own")

    @classmethod
    def load(cls, file: Path | None, environment: Mapping[str, str] = os.environ) -> Operators:
        """Those of a file, a name and a token on each line, or the one of ``DIFFFAKE_WALL_TOKEN``, named ``operator``.

        Raises:
            TokenError: see `Operators`; or the file cannot be read.
        """
        if file is None:
            token = environment.get(TOKEN_ENV, "")
            return cls({"operator": token} if token else {})
        try:
            with file.open("rb") as opened:
                text = opened.read(_MAX_FILE_BYTES + 1).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise TokenError(f"{file}: cannot be read ({error})", hint="check --token-file and its rights") from error
        lines = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        tokens = {line[0]: line[1] for line in lines if len(line) == 2}
        if len(text) > _MAX_FILE_BYTES or len(tokens) < len(lines) or not 0 < len(tokens) <= _MAX_OPERATORS:
            raise TokenError(
                f"{file}: not a name and a token on each line, each name once",
                hint="write lines such as: ada 3q2-8fJ0w1k7bQ...",
            )
        return cls(tokens)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def who(self, header: str | None) -> str | None:
        """The name behind an ``Authorization`` header; every token is compared, whichever fits."""
        given = header or ""
        digest = _digest(given[len(_SCHEME) :].strip() if given[: len(_SCHEME)].lower() == _SCHEME else "")
        found: str | None = None
        for name, known in self._digests.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found


class Limiter:
    """At most so many events of one address or operator in a while; memory is bounded.

    Args:
        events: allowed within ``window_s``.
        window_s: seconds.
        monotonic: seconds.
    """

    def __init__(self, events: int, window_s: float, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._events, self._window_s, self._monotonic = events, window_s, monotonic
        self._seen: OrderedDict[str, deque[float]] = OrderedDict()

    def check(self, who: str) -> None:
        """Raises `TooManyError` if one more would be too many."""
        times, now_s = self._seen.get(who), self._monotonic()
        while times and now_s - times[0] > self._window_s:
            times.popleft()
        if times and len(times) >= self._events:
            raise TooManyError(self._window_s - (now_s - times[0]))

    def count(self, who: str) -> None:
        """One has happened."""
        self._seen.setdefault(who, deque(maxlen=self._events)).append(self._monotonic())
        self._seen.move_to_end(who)
        if len(self._seen) > _MAX_ADDRESSES:
            self._seen.popitem(last=False)


def _digest(token: str) -> bytes:
    # A plain digest will do: tokens are long and random, not passwords.
    return hashlib.sha256(token.encode(errors="replace")).digest()
