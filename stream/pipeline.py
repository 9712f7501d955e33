"""Records on their way through decoder and networks, many streams at once; the order within a stream is kept.

Records in progress are a `Job`. It holds all that its stages change, so that the state of its stream changes only
where the owner of the pipeline takes what was seen, on its own thread. How a record is decoded depends on what was seen
in those before it. So a job is a run of records that ends behind the first that gives a frame: many access units, of
which few are looked at, make one job; a segment makes one of its own.

There is a thread for each core, and each decodes or looks, whatever is due: both mostly run without the interpreter's
lock, and with no more threads than cores none of them waits while a core has nothing to do. A decoder runs a few frames
ahead of the networks and then gives its thread to another stream. Networks that belong to one thread, as on a GPU, have
a thread of their own, and the others decode.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

import msgspec

from difffake.faces.finder import FinderState
from stream.batcher import BatchCounts, Batcher, BatchSettings
from stream.container import usable_cores
from stream.decode import Decoded, DecodedFrame, DecoderState, Gear, Payload, StreamDecoder
from stream.intake import StreamKey
from stream.live.models import Look, LookFrame
from stream.stages import Stage, Timed, untimed


class PipelineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of a pipeline.

    Args:
        threads: records decoded, and batches in the networks, at once. Networks that threads may not share have one
            more to themselves.
        in_progress: records worked on at once, each of another stream: each has a decoder and pictures in memory.
        ahead: frames of a record that may be decoded and wait for the networks.
        part: frames of a record that are handed over together; a record with more is handed over in parts.
        run, run_bytes: waiting records of a stream that are taken in one go, and how large they may be together.
        run_s: decoding for so long ends a run: its thread is for other streams, too. Processor time, or runs would be
            shortest where the machine is busiest.
        batch: of the networks.
    """

    threads: int = 2
    in_progress: int = 8
    ahead: int = 3
    part: int = 64
    run: int = 16
    run_bytes: int = 1 << 20
    run_s: float = 0.05
    batch: BatchSettings = BatchSettings()

    @classmethod
    def for_cores(cls, cores: int, batch: BatchSettings) -> Self:
        """For networks of one thread each on the CPU; 0 takes every core that this process may use."""
        threads = cores or usable_cores()
        return cls(threads=threads, in_progress=6 * threads, batch=batch)

    def __post_init__(self) -> None:
        counts = (self.threads, self.in_progress, self.ahead, self.part, self.run)
        if min(counts) < 1 or self.run_bytes < 0 or not self.run_s >= 0:
            raise ValueError("a pipeline needs at least one thread, one record, one frame ahead and one in a part")


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen in a frame. Its picture is gone; ``index`` and ``offset`` as in `DecodedFrame`."""

    pts_ns: int
    index: int
    offset: int
    look: Look


@dataclass(slots=True, eq=False)
class Decoding:
    """A record that a job has begun to decode.

    Attributes:
        decoded: what the decoder says of it; whole once another record is begun, or the job is done. None: it refused.
        decode_s: time that decoding took so far.
        after: the decoder as the record left it; None of the last one, whose decoder is there to be asked.
    """

    decoded: Decoded | None = None
    decode_s: float = 0.0
    after: DecoderState | None = None


@dataclass(slots=True, eq=False)
class Job:
    """A run of records of a stream, decoded one after the other up to the first that gives a frame.

    Args:
        stream: whose.
        decoder: the stream's; the job's alone until it is done.
        payloads: the records, in order: those behind the one that ends the run are not touched.
        gear: how closely all of them are looked at.
        finder: where the stream's faces were last; moves on with every frame.
        urgent: the stream is under suspicion.

    Attributes:
        decodings: of the records that were begun, in order. Whatever was seen, was seen in the last one.
        error: what ended it, at the last one; its decoder may then stand in the middle of the record, unless it is an
            `InputError`.
        done: nothing more comes.
    """

    stream: StreamKey
    decoder: StreamDecoder
    payloads: Sequence[Payload]
    gear: Gear
    finder: FinderState
    urgent: bool = False
    decodings: list[Decoding] = field(default_factory=list)
    error: Exception | None = None
    done: bool = False
    _frames: Iterator[DecodedFrame] | None = None
    _gives: bool = False
    _waiting: deque[DecodedFrame] = field(default_factory=deque)
    _sights: list[Sight] = field(default_factory=list)
    _decoding: bool = False
    _ended: bool = False
    _looking: bool = False
    _told: bool = False
    _cancelled: bool = False

    def take(self) -> list[Sight]:
        """What was seen since the last time, in order. Only for a job that `Pipeline.ready` has given out."""
        seen, self._sights, self._told = self._sights, [], False
        return seen

    def next_frame(self, run_s: float) -> DecodedFrame | None:
        """Decode up to the next frame; None where the run ends without one more.

        Args:
            run_s: of the processor; no record is begun after so long without a frame.
        """
        until_s = time.thread_time() + run_s
        while not self._cancelled:
            began_s = time.perf_counter()
            try:
                frame = next(self._begin() if self._frames is None else self._frames, None)
            finally:
                self.decodings[-1].decode_s += time.perf_counter() - began_s
            if frame is not None:
                self._gives = True
                return frame
            if self._gives or len(self.decodings) == len(self.payloads) or time.thread_time() >= until_s:
                break
            self.decodings[-1].after = self.decoder.state()
            self._frames = None
        return None

    def _begin(self) -> Iterator[DecodedFrame]:
        """The frames of the next record."""
        decoding = Decoding()
        self.decodings.append(decoding)
        decoding.decoded = self.decoder.decode(self.payloads[len(self.decodings) - 1], self.gear)
        self._frames = iter(decoding.decoded.frames)
        return self._frames


class Looker(Protocol):
    """The networks: `stream.live.LiveModels`."""

    @property
    def may_be_shared(self) -> bool:
        """Whether several threads may look at once."""

    def look(self, frames: Sequence[LookFrame]) -> list[Look]:
        """One look a frame; frames are of different streams."""


class Pipeline:
    """Decodes and looks; use as a context manager, or call `close`. Its methods are for one thread, the owner's.

    Args:
        models: the networks.
        settings: see there.
        timed: takes the time of decoding.
        batched: see `stream.batcher.Batcher`.
    """

    def __init__(
        self,
        models: Looker,
        settings: PipelineSettings | None = None,
        *,
        timed: Timed = untimed,
        batched: Callable[[int, Sequence[float]], None] | None = None,
    ) -> None:
        self._models, self._settings, self._timed = models, settings or PipelineSettings(), timed
        self._lock = threading.Lock()
        self._some_ready = threading.Condition(self._lock)
        self._ready: deque[Job] = deque()
        self._jobs: set[Job] = set()
        #: Jobs whose next frame is to be decoded, and how many are being decoded.
        self._to_decode: deque[Job] = deque()
        self._decoding = 0
        self._some_work = threading.Condition(self._lock)
        self._closed = False
        self._broken: BaseException | None = None
        lookers = self._settings.threads if models.may_be_shared else 1
        self._batcher: Batcher[tuple[Job, DecodedFrame]] = Batcher(
            self._settings.batch,
            coming=lambda: self._decoding + len(self._to_decode),
            # Of few streams one batch would take every frame, and the other threads would have nothing to do.
            share=lambda: -(-len(self._jobs) // lookers),
            told=batched,
        )
        self._all_look = models.may_be_shared
        work = self._decode_and_look if self._all_look else self._decode_only
        self._threads = [self._thread(f"pipeline-{n}", work) for n in range(self._settings.threads)]
        if not self._all_look:
            self._threads.append(self._thread("networks", self._look_only))
        for thread in self._threads:
            thread.start()

    # -- the owner's side --------------------------------------------------------------------------------------------
    def start(self, job: Job) -> None:
        """Begin a job; there must be none of its stream."""
        with self._lock:
            self._jobs.add(job)
            self._decode_on(job)

    def ready(self, timeout_s: float) -> list[Job]:
        """Jobs that are done, or have a part to hand over; waits until there is one. Take what they have seen, then
        call `go_on` for those that are not done.

        Raises:
            RuntimeError: a thread of the pipeline has died; its jobs would never be done.
        """
        with self._some_ready:
            if not self._ready and self._broken is None:
                self._some_ready.wait(timeout_s)
            if self._broken is not None:
                raise RuntimeError(f"a thread of the pipeline has died: {self._broken!r}") from self._broken
            found = list(self._ready)
            self._ready.clear()
            self._jobs.difference_update(job for job in found if job.done)
            return found

    def go_on(self, job: Job) -> None:
        """Let a job go on of which a part was taken."""
        with self._lock:
            self._advance(job)

    def cancel(self, job: Job) -> None:
        """Forget a job: it is not given out any more. Its decoder is of no use to anybody."""
        with self._lock:
            job._cancelled = True
            self._jobs.discard(job)
            for waiting in (self._ready, self._to_decode):
                if job in waiting:
                    waiting.remove(job)
        self._batcher.discard(job.stream)

    def __len__(self) -> int:
        """Jobs that were started and are not yet given out as done."""
        return len(self._jobs)

    @property
    def batches(self) -> BatchCounts:
        """How the networks' batches were filled."""
        return self._batcher.counts

    def change(self, batch: BatchSettings) -> None:
        """Put batches together otherwise from now on."""
        self._batcher.change(batch)

    def close(self) -> None:
        """Forget all jobs and wait for the threads: those in the middle of a picture finish it."""
        for job in list(self._jobs):
            self.cancel(job)
        self._batcher.close()
        with self._lock:
            self._closed = True
            self._some_work.notify_all()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the threads' side -------------------------------------------------------------------------------------------
    def _thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        return threading.Thread(target=self._whole, args=(work,), name=name, daemon=True)

    def _whole(self, work: Callable[[], None]) -> None:
        """What a thread does. Whatever it raises (no memory, no more threads, a fault of ours) is the owner's to know:
        all would go on but for the jobs that it had, and nobody would look at their streams."""
        try:
            work()
        except BaseException as error:
            with self._lock:
                self._broken = self._broken or error
                self._some_ready.notify()

    def _decode_and_look(self) -> None:
        """Look where a batch is due, else decode; look at what there is where there is nothing to decode."""
        while True:
            job = None
            with self._some_work:
                while not (batch := self._batcher.poll(is_busy=bool(self._to_decode))):
                    if self._closed:
                        return
                    if (job := self._next_job()) is not None:
                        break
                    self._some_work.wait()
            if job is not None:
                self._decode(job)
            else:
                self._look(batch)

    def _decode_only(self) -> None:
        while True:
            with self._some_work:
                while (job := self._next_job()) is None:
                    if self._closed:
                        return
                    self._some_work.wait()
            self._decode(job)

    def _look_only(self) -> None:
        while batch := self._batcher.take():
            self._look(batch)

    # -- decoding ----------------------------------------------------------------------------------------------------
    def _decode_on(self, job: Job) -> None:
        """With the lock held: go on decoding where there is room for frames."""
        if job._decoding or job._ended or job._cancelled or len(job._waiting) >= self._settings.ahead:
            return
        job._decoding = True
        self._to_decode.append(job)
        self._some_work.notify()

    def _next_job(self) -> Job | None:
        """With the lock held: a job to decode."""
        if not self._to_decode:
            return None
        self._decoding += 1
        return self._to_decode.popleft()

    def _decode(self, job: Job) -> None:
        goes_on = True
        while goes_on:
            frame, error = None, None
            began_s = time.perf_counter()
            try:
                frame = job.next_frame(self._settings.run_s)
            except Exception as caught:  # whatever a decoder raises belongs to its record
                error = caught
            self._timed(Stage.DECODE, time.perf_counter() - began_s, int(frame is not None))
            with self._lock:
                if frame is None:
                    job._ended, job.error = True, job.error or error
                elif not job._ended:  # the networks may have failed at a frame before
                    job._waiting.append(frame)
                room = len(job._waiting) < self._settings.ahead
                goes_on = room and not (job._ended or job._cancelled)
                if not goes_on:
                    job._decoding = False
                    self._decoding -= 1
                self._advance(job)
        if not self._all_look:  # else nobody waits in there
            self._batcher.nudge()

    # -- looking -----------------------------------------------------------------------------------------------------
    def _look(self, batch: list[tuple[Job, DecodedFrame]]) -> None:
        looks = self._looks(batch)
        with self._lock:
            for (job, frame), look in zip(batch, looks, strict=True):
                job._looking = False
                if isinstance(look, Exception):
                    job.error, job._ended = job.error or look, True
                    job._waiting.clear()
                else:
                    job.finder = look.finder
                    job._sights.append(Sight(frame.pts_ns, frame.index, frame.offset, look))
                self._advance(job)

    def _looks(self, batch: list[tuple[Job, DecodedFrame]]) -> Sequence[Look | Exception]:
        frames = [LookFrame(frame.picture, frame.pts_ns, job.finder) for job, frame in batch]
        try:
            return self._models.look(frames)
        except Exception as error:
            if len(frames) == 1:
                return [error]
        # One of them breaks it: the others must not pay.
        alone: list[Look | Exception] = []
        for frame in frames:
            try:
                alone += self._models.look([frame])
            except Exception as error:
                alone.append(error)
        return alone

    # -- what comes next, with the lock held ---------------------------------------------------------------------------
    def _advance(self, job: Job) -> None:
        if job._cancelled or job.done:
            return
        if not job._looking and job._waiting and len(job._sights) < self._settings.part:
            job._looking = True
            self._batcher.put(job.stream, (job, job._waiting.popleft()), urgent=job.urgent)
            if self._all_look:
                self._some_work.notify()
        self._decode_on(job)
        is_over = job._ended and not (job._decoding or job._looking or job._waiting)
        if (is_over or len(job._sights) >= self._settings.part) and not job._told:
            job._told, job.done = True, is_over
            self._ready.append(job)
            self._some_ready.notify()
