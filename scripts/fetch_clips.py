"""Fetch the clips that demonstrations and tests use into a folder: scripts/fetch_clips.py FOLDER"""

from __future__ import annotations

import argparse
from pathlib import Path

from difffake.demo.clips import fetch_clips

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path)
for name, path in fetch_clips(parser.parse_args().folder).items():
    print(f"{name}: {path.name}")
