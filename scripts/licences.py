"""List the licences of what DiffFake requires, and fail on those that we may not pass on: scripts/licences.py EXTRA...

What counts is the closure of the requirements, walked in the environment that runs this: what a worker's image holds,
not what tests and training use. Exit code 1: a licence that is refused, or none that could be found.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: Copyleft over a network, and terms that forbid a use: neither fits Apache-2.0 for whoever runs or passes on an image.
REFUSED = re.compile(
    r"\bA-?GPL|Affero|NonCommercial|non-commercial|\bNC\b|-NC-|SSPL|Server Side Public|BUSL|Business Source", re.I
)

#: Libraries inside wheels under other terms than the wheel's own.
CARRIED = {
    "av": "carries FFmpeg (LGPL-3.0-or-later) with libx264 and libx265 (GPL-2.0-or-later)",
}


@dataclass(frozen=True)
class Licensed:
    """A distribution and what it says of its licence; empty where it says nothing."""

    name: str
    version: str
    licence: str

    @property
    def is_refused(self) -> bool:
        """Whether it may not go into an image."""
        return not self.licence or bool(REFUSED.search(self.licence))


def closure(extras: frozenset[str]) -> list[Licensed]:
    """DiffFake and all that it requires with these extras, installed here.

    Raises:
        importlib.metadata.PackageNotFoundError: one of them is not.
    """
    names: set[str] = set()
    _walk("difffake", extras, set(), names)
    return [Licensed(name, importlib.metadata.version(name), licence_of(name)) for name in sorted(names)]


def licence_of(name: str) -> str:
    """The expression, else the classifiers, else the first line of the free text."""
    about = importlib.metadata.metadata(name)
    if expression := about.get("License-Expression"):
        return expression
    classifiers = [c.split("::")[-1].strip() for c in about.get_all("Classifier") or [] if c.startswith("License ::")]
    free = (about.get("License") or "").strip().splitlines()
    return "; ".join(dict.fromkeys([*classifiers, *free[:1]]))


def _walk(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]], names: set[str]) -> None:
    if (name, extras) in seen:
        return
    seen.add((name, extras))
    names.add(name)
    for required in _required(name, extras):
        _walk(canonicalize_name(required.name), frozenset(required.extras), seen, names)


def _required(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    for line in importlib.metadata.requires(name) or []:
        required = Requirement(line)
        if required.marker is None or any(required.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            yield required


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extra", nargs="*")
    found = closure(frozenset(parser.parse_args().extra))
    for one in found:
        note = CARRIED.get(one.name, "")
        print(f"{one.name:28} {one.version:16} {one.licence or 'UNKNOWN'}{'; ' + note if note else ''}")
    refused = [one.name for one in found if one.is_refused]
    if refused:
        print(f"refused: {', '.join(refused)}", file=sys.stderr)
    return bool(refused)


if __name__ == "__main__":
    sys.exit(main())
