"""Bundles of one extractor on genuine clips: how many windows of a scan does each call unusual?

    python scripts/compare_false_alarms.py BUNDLE BUNDLE... --clips CLIPS... [--seconds 15]

Faces are found and embedded once; each bundle judges them as a scan does, against the clip's own first good frames. The
face seen most counts. People on whom a bundle was calibrated are among the clips if they are among those given.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from difffake.bundle import EXTRACTOR, Bundle
from difffake.detector import Detector
from difffake.errors import DiffFakeError
from difffake.folder import VIDEO_SUFFIXES
from difffake.judge import Judge
from difffake.scoring import Scorer
from difffake.settings import ScanSettings
from difffake.video import open_video

EVIDENCES = ("artifact", "anchor")


def main() -> None:
    """Print a line for each bundle and evidence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--clips", type=Path, nargs="+", required=True)
    parser.add_argument("--seconds", type=float, default=15.0)
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    bundles = [Bundle.load(path) for path in asked.bundles]
    if len({bundle.manifest.files[EXTRACTOR].sha256 for bundle in bundles}) > 1:
        parser.error("the bundles' extractors differ")
    files = [p for given in asked.clips for p in (sorted(given.iterdir()) if given.is_dir() else [given])]
    settings = ScanSettings(threads=1, fps=4.0, duration_s=asked.seconds)
    found: dict[tuple[int, str], list[list[float]]] = {}
    with Detector.load(asked.bundles[0], settings) as detector:
        for path in (p for p in files if p.suffix.lower() in VIDEO_SUFFIXES):
            try:
                with open_video(path, fps=settings.fps, stop_s=settings.duration_s) as video:
                    seen = detector.observe(video)
            except DiffFakeError as error:
                print(f"{path.name}: {error}")
                continue
            if not seen.scored.any():
                continue
            for i, bundle in enumerate(bundles):
                people = Judge(Scorer(bundle), bundle.manifest.evidence, settings).judge(seen).people
                main_one = max(people, key=lambda person: person.faces_scored)
                for evidence in EVIDENCES:
                    windows = [getattr(window, evidence) for window in main_one.windows]
                    if kept := [window.p_value for window in windows if window is not None]:
                        found.setdefault((i, evidence), []).append(kept)
    for (i, evidence), clips in sorted(found.items()):
        p = np.concatenate(clips)
        shares = ", ".join(f"{(p < level).mean():.1%} below {level:g}" for level in (0.05, 0.01))
        score = bundles[i].manifest.evidence[evidence]
        print(f"{bundles[i].model_id} {evidence} ({score}): {len(clips)} clips, {len(p)} windows, {shares}")


if __name__ == "__main__":
    main()
