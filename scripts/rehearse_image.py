"""Run the steps of the Dockerfile where no Docker runs, in chroots: scripts/rehearse_image.py TARGET [COMMAND...]

Without a command the target is built, looked through and asked for its version; with one it is built unless it is
there, and run as an image would be: as its user, with its environment and the DIFFFAKE_* of this one, on a read-only
root file system, and its health check is asked beside it.

In the place of the base image stands a Debian of the same release with its own Python, made by debootstrap: what is
missing in that one may be missing in the image. Needs root, Linux, debootstrap, and the package indices. Not part of
the tests.
"""

# ruff: noqa: S603, S607  (what it runs is what the Dockerfile says, as root: that is what it is for)

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache" / "rehearsal"
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
#: How this machine reaches package indices is its own affair; nothing else of its environment gets in.
PASSED = ("PIP_CERT", "PIP_INDEX_URL", "SSL_CERT_FILE", "HTTPS_PROXY", "https_proxy")


@dataclass
class Stage:
    """A stage as it stands after some of its steps."""

    folder: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"})
    workdir: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def copy(self, folder: Path) -> Stage:
        """The same in another folder."""
        subprocess.run(["cp", "-a", "--reflink=auto", self.folder, folder], check=True)
        return self.at(folder)

    def at(self, folder: Path) -> Stage:
        """What is said of it, of another folder."""
        return replace(self, folder=folder, env=dict(self.env))

    def start(
        self, words: list[str], *, read_only: bool = False, more: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Run something inside."""
        inside = shlex.quote(str(self.folder))
        mounts = [f"mount --rbind {inside} {inside}", f"mount -t proc proc {inside}/proc"]
        mounts += [f"mount --rbind /dev {inside}/dev", f"mount --bind /etc/ssl {inside}/etc/ssl"]
        if read_only:
            mounts += [f"mount -o remount,bind,ro {inside}", f"mount -t tmpfs -o mode=1777 tmpfs {inside}/tmp"]  # noqa: S108
        env = {name: os.environ[name] for name in PASSED if name in os.environ} if not read_only else {}
        env |= self.env | (more or {})
        run = ["chroot", f"--userspec={self.user}", str(self.folder), "/usr/bin/env", "-i", "-C", self.workdir]
        run += [f"{name}={value}" for name, value in env.items()] + words
        script = " && ".join([*mounts, "exec " + shlex.join(run)])
        return subprocess.Popen(["unshare", "--mount", "sh", "-c", script])

    def run(self, words: list[str], **how: bool) -> None:
        """The same, waited for."""
        if code := self.start(words, **how).wait():
            sys.exit(f"{shlex.join(words)} ended with {code}")


def base() -> Stage:
    """Debian with Python, made once."""
    folder = CACHE / "base"
    if not folder.exists():
        shutil.rmtree(CACHE / "base.part", ignore_errors=True)
        (suite,) = re.findall(r"-slim-(\w+)@", (ROOT / "Dockerfile").read_text())
        make = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, str(CACHE / "base.part")]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
        made = CACHE / "base.part"
        for name, there in (("python", "python3"), ("pip", "pip3")):
            (made / "usr/local/bin" / name).symlink_to(f"/usr/bin/{there}")
        for guard in made.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
            guard.unlink()  # the base image has none
        made.rename(folder)
    return Stage(folder)


def build(target: str, *, is_built: bool) -> Stage:
    """The stages that `target` needs, step by step; those that are there are only asked how they are run."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    stages: dict[str, Stage] = {}
    needed = _needed(steps, target)
    current, name = base(), ""
    for word, rest in steps:
        if word == "FROM":
            source, _, name = (part.strip() for part in rest.partition(" AS "))
            if name in needed and is_built:
                current = stages[name] = stages.get(source, base()).at(CACHE / name)
            elif name in needed:
                shutil.rmtree(CACHE / name, ignore_errors=True)
                current = stages[name] = stages.get(source, base()).copy(CACHE / name)
        elif name in needed and not (is_built and word in ("RUN", "COPY")):
            print(f"{name}: {word} {rest[:100]}", flush=True)
            _step(current, stages, word, rest)
    return stages[target]


def _needed(steps: list[list[str]], target: str) -> set[str]:
    needs: dict[str, set[str]] = {}
    name = ""
    for word, rest in steps:
        if word == "FROM":
            source, _, name = (part.strip() for part in rest.partition(" AS "))
            needs[name] = {source}
        elif word == "COPY" and rest.startswith("--from="):
            needs[name].add(rest.split()[0].removeprefix("--from="))
    found, more = set(), {target}
    while more:
        found |= more
        more = {s for name in more for s in needs.get(name, set()) if s in needs} - found
    return found


def _step(stage: Stage, stages: dict[str, Stage], word: str, rest: str) -> None:
    if word == "RUN":
        stage.run(["/bin/sh", "-c", rest])
    elif word == "COPY":
        *sources, into = rest.split()
        origin = ROOT
        if sources[0].startswith("--from="):
            origin = stages[sources.pop(0).removeprefix("--from=")].folder
        there = stage.folder / os.path.join(stage.workdir, into).lstrip("/")  # noqa: PTH118  (an absolute one wins)
        there.parent.mkdir(parents=True, exist_ok=True)
        for source in sources:
            place = there / Path(source).name if into.endswith("/") or len(sources) > 1 else there
            place.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", origin / source.lstrip("/"), place], check=True)
    elif word == "ENV":
        for name, value in re.findall(r"(\w+)=(\S+)", rest):
            stage.env[name] = value.replace("$PATH", stage.env["PATH"])
    elif word == "WORKDIR":
        stage.workdir = rest
        (stage.folder / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
    elif word == "USER":
        stage.user = rest
    elif word == "ENTRYPOINT":
        stage.entrypoint = json.loads(rest)
    elif word == "CMD":
        stage.command = json.loads(rest)
    elif word == "HEALTHCHECK":
        stage.health = json.loads(rest.partition("CMD ")[2]) if "CMD " in rest else []


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    target, words = options.target, options.command
    CACHE.mkdir(parents=True, exist_ok=True)
    stage = build(target, is_built=bool(words) and (CACHE / target).exists())
    if not words:
        size = subprocess.run(["du", "-sxm", stage.folder / "opt/difffake"], capture_output=True, text=True, check=True)
        print(f"the environment: {size.stdout.split()[0]} MB")
        stage.run([*stage.entrypoint, "--version"], read_only=True)
        stage.run(
            ["/bin/sh", "-c", "id -u; ! touch /opt/difffake/x 2>/dev/null && touch /tmp/x && echo read-only"],
            read_only=True,
        )
        return 0
    kafka = {name: value for name, value in os.environ.items() if name.startswith("DIFFFAKE_")}
    process = stage.start([*stage.entrypoint, *words], read_only=True, more=kafka)
    try:
        while process.poll() is None:
            time.sleep(5)
            if stage.health and process.poll() is None:
                asked = stage.start(stage.health, read_only=True).wait()
                print(f"health: {asked}", flush=True)
    except KeyboardInterrupt:
        process.terminate()
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())
