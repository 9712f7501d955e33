"""Fetch the clips that demonstrations and tests use into a folder: scripts/fetch_clips.py FOLDER"""

from __future__ import annotations

import sys
from pathlib import Path

from difffake.demo.clips import fetch_clips

for name, path in fetch_clips(Path(sys.argv[1])).items():
    print(f"{name}: {path.name}")
