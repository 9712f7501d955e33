"""Make the clips that compose.yaml's demo publishes: deploy/demo_clips.py FOLDER

studio-1.mp4 is genuine; studio-2.mp4 is the same clip with another person's face over half of it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from difffake.demo.clips import fetch_clips
from difffake.demo.swap import make_demo_clips, pick_donor

folder = Path(sys.argv[1])
with tempfile.TemporaryDirectory() as scratch:
    free = fetch_clips(Path(scratch))
    made = make_demo_clips(free["woman"], pick_donor(free["man"]), folder)
made.genuine.rename(folder / "studio-1.mp4")
made.swapped.rename(folder / "studio-2.mp4")
