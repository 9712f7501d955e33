"""Look at videos in several processes at once, into the cache that `robustness` then reads."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from difffake.errors import DiffFakeError
from difffake.evaluation.conditions import TreatedFile
from difffake.evaluation.layouts import Item, list_items
from difffake.evaluation.outcome import EvaluationSettings
from difffake.evaluation.robustness import Progress, RobustnessSettings, clip_listing, files_of
from difffake.evaluation.run import BundledDetector, Stores

MakeDetector = Callable[[], BundledDetector]
"""Loads the detector in a new process: it must survive pickling."""

_detector: BundledDetector | None = None


def warm(settings: RobustnessSettings, make: MakeDetector, jobs: int, progress: Progress | None = None) -> None:
    """Look at every video under every condition with ``jobs`` processes; what cannot be read is left to `robustness`.

    Raises:
        DataError: the folder does not hold the layout.
    """
    told = settings.evaluation
    listing = list_items(told.layout, told.root, compression=told.compression, split=told.split)
    work = [([settings.under(c) for c in settings.conditions], items) for items in files_of(listing)]
    if settings.clips is not None:
        under = [settings.under(c) for c in settings.clips_conditions]
        work += [(under, items) for items in files_of(clip_listing(settings.clips))]
    total, done = sum(len(under) * len(items) for under, items in work), 0
    # Not forked: threads of networks and codecs do not survive that.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start, initargs=(make,)) as processes:
        futures = {processes.submit(_look, *one): one for one in work}
        try:
            for future in as_completed(futures):
                future.result()
                under, items = futures[future]
                done += len(under) * len(items)
                if progress is not None:
                    progress(done, total, items[0].video)
        except BaseException:
            processes.shutdown(cancel_futures=True)
            raise


def _start(make: MakeDetector) -> None:
    global _detector
    _detector = make()


def _look(under: Sequence[EvaluationSettings], items: tuple[Item, ...]) -> None:
    """One file under all conditions, which share what is decoded."""
    if _detector is None:
        raise RuntimeError("the process was not started")
    treated = TreatedFile()
    for settings in under:
        store = Stores.of(settings, _detector, treated).judged
        for item in items:
            try:
                store.features(item)
            except DiffFakeError:
                # Told by whoever reads the cache, who will meet the same error.
                continue
