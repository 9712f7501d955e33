"""What pseudo-fakes cost and how far they go, as a table: python scripts/measure_pseudofakes.py STORE [--samples 200]

Faces of the training people, one thread, CPU time (so that other work on the machine counts little).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from difffake.pseudofake import FAMILIES, decoder_of, degrade_pairs, make_pair, shares_of
from difffake.training.split import bank_of, split_people
from difffake.training.store import CropStore

U8 = npt.NDArray[np.uint8]
_INNER = slice(100, 205), slice(100, 188)  # eyes to mouth in a crop of 288 px


def main() -> None:
    """Print the table, and what the stream chain costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--samples", type=int, default=200)
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    store = CropStore.load(asked.store)
    rng = np.random.default_rng(0)
    rows = rng.permutation(split_people(store, clip_shares=(0.5, 0.05, 0.45)).train)[:1500]
    bank = bank_of(store, np.sort(rows))
    decoder_of(bank)
    print(
        "| family | ms a fake, 288 px | change of the inner face, levels: 5 %, median, 95 % | sharper than its source |"
    )
    print("|---|---|---|---|")
    for name in shares_of(bank):
        changes, sharper, spent_s = [], 0, 0.0
        for _ in range(asked.samples):
            index = int(rng.integers(len(bank)))
            seed = int(rng.integers(2**31))
            real, _ = make_pair(bank, index, "history", np.random.default_rng(seed), captured=0.5)
            began = time.process_time()
            fake = FAMILIES[name].make(bank, index, real, rng)
            spent_s += time.process_time() - began
            inner = fake[_INNER], real[_INNER]
            changes.append(float(np.abs(inner[0].astype(int) - inner[1]).mean()))
            sharper += _detail(inner[0]) > _detail(inner[1])
        low, middle, high = np.percentile(changes, [5, 50, 95])
        cost = f"{spent_s / asked.samples * 1e3:.1f}"
        print(f"| `{name}` | {cost} | {low:.1f}, {middle:.1f}, {high:.1f} | {sharper / asked.samples:.0%} |")
    crops = np.stack([bank.crop(i)[32:256, 32:256] for i in range(64)])
    began = time.process_time()
    for _ in range(5):
        degrade_pairs(crops, crops, rng)
    print(f"\ndegrade_pairs: {(time.process_time() - began) / 640 * 1e3:.1f} ms an image of 224 px")


def _detail(image: U8) -> float:
    green = np.ascontiguousarray(image[..., 1])
    return float(cv2.subtract(green, cv2.GaussianBlur(green, (0, 0), 1.2), dtype=cv2.CV_16S).std())


if __name__ == "__main__":
    main()
