"""Saturated workers in processes beside each other, as ``difffake work --workers N`` starts them."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

from difffake.errors import DiffFakeError
from difffake.networks import EngineChoice
from stream.bench.clips import Footage
from stream.bench.clock import Spent
from stream.bench.saturated import Saturated, worked_off
from stream.live import LiveModels, LiveSettings

#: Opening engines may take minutes.
_READY_S = 900.0

_ready: Any = None


def worked_off_by(
    workers: int,
    source: Footage,
    bundle: Path | None,
    live: LiveSettings,
    choice: EngineChoice,
    *,
    streams: int,
    **more: Any,
) -> Saturated:
    """Let so many workers score the same footage as so many streams, which they share; all of them begin together.

    Args:
        workers: processes, no more of them than ``streams``.
        source, live, streams: see `stream.bench.saturated.worked_off`, like ``more``.
        bundle, choice: each worker opens its own networks.

    Returns:
        What they did together: frames a second are the sum of theirs.

    Raises:
        DiffFakeError: one of them did not live to the end.
    """
    spawn = multiprocessing.get_context("spawn")
    shares = [len(range(number, streams, workers)) for number in range(workers)]
    one = partial(_one, source, bundle, live, choice, **more)
    try:
        with ProcessPoolExecutor(workers, spawn, initializer=_begin, initargs=(spawn.Barrier(workers),)) as pool:
            return _together(list(pool.map(one, shares)))
    except (BrokenProcessPool, BrokenBarrierError) as error:
        raise DiffFakeError(
            "a worker of the measurement did not live to its end", hint="fewer --workers take less memory"
        ) from error


def _begin(ready: Any) -> None:
    global _ready
    _ready = ready


def _one(
    source: Footage, bundle: Path | None, live: LiveSettings, choice: EngineChoice, streams: int, **more: Any
) -> Saturated:
    try:
        with LiveModels.load(bundle, live, choice) as models:
            _ready.wait(_READY_S)
            return worked_off(source, models, live, streams=streams, **more)
    except BaseException:
        _ready.abort()
        raise


def _together(all_done: list[Saturated]) -> Saturated:
    frames, fps = sum(done.frames for done in all_done), sum(done.fps for done in all_done)
    cores = [done.spent.cpu_s / done.spent.wall_s for done in all_done]
    # To each of them the others are others.
    busy = sum(done.spent.others + own for done, own in zip(all_done, cores, strict=True)) / len(all_done)
    statuses: dict[str, int] = {}
    for done in all_done:
        for status, count in done.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
    return Saturated(
        streams=sum(done.streams for done in all_done),
        frames=frames,
        spent=Spent(frames / fps, sum(done.spent.cpu_s for done in all_done), busy - sum(cores)),
        faces=sum(done.faces * done.streams for done in all_done) / sum(done.streams for done in all_done),
        statuses=statuses,
    )
