"""What sessions of ONNX Runtime hold in memory. In processes of their own: what was once held is never given back."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

#: Prints what is held (MiB) before networks run, after they were warmed or not, and after a crowd of runs.
HELD = """
import random, re, sys
from pathlib import Path
import numpy as np
from difffake.bundle import Bundle
from difffake.faces.centerface import CenterFace
from difffake.networks import open_networks
from stream.live import LiveModels, LiveSettings

def held():
    return int(re.findall(r"^Anonymous:\\s+(\\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.M)[0]) / 1024

rng = random.Random(7)
with LiveModels.load(None, LiveSettings(threads=1)) as models:
    figures = [held()]
    if "warm" in sys.argv:
        models.warm(1)
    figures.append(held())
    finder, extractor, identity = models._finder, models._engine, models._identity_engine
    for _ in range(40):
        finder._whole.detect([np.zeros((270, 480, 3), np.uint8)] * rng.randint(0, 2))
        finder._close.detect([np.zeros((128, 128, 3), np.uint8)] * rng.randint(1, 8))
        for engine in (extractor, identity):
            engine.infer(np.zeros((rng.randint(1, 8), 3, engine.spec.side_px, engine.spec.side_px), np.uint8))
    figures.append(held())
print(*figures)
"""


def held(*arguments: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", HELD, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [float(figure) for figure in done.stdout.split()]


def test_networks_that_were_warmed_hold_no_more_later_whatever_they_run() -> None:
    before, warm, after = held("warm")
    assert warm - before > 5, "it is taken at once"
    assert after - warm < 3


def test_sessions_share_what_they_work_in() -> None:
    code = HELD.replace("models.warm(1)", "models.warm(1); others = LiveModels.load(None, LiveSettings(threads=1)); "
                        "figures[0] = held(); others.warm(1)")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, "warm"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    before, warm, _ = map(float, done.stdout.split())
    assert warm - before < 4, "of the others nothing more is needed"


def test_an_application_that_shares_an_arena_of_its_own_is_left_alone() -> None:
    code = (
        "import onnxruntime as ort\n"
        "info = ort.OrtMemoryInfo('Cpu', ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)\n"
        "ort.create_and_register_allocator(info, ort.OrtArenaCfg({}))\n"
        "from difffake.faces import CenterFace\n"
        "import numpy as np\n"
        "print(len(CenterFace(threads=1).detect([np.zeros((90, 160, 3), np.uint8)])))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr[-2000:]
