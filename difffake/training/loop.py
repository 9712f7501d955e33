"""The training loop: real faces against pseudo-deepfakes made from them.

Stamnas and Sanchez 2025 (DiffFake) train the extractor on real footage alone, against self-blended images. Every
batch holds a real crop and its own fake, treated alike, so that only the manipulation can tell them apart.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from difffake.errors import DataError
from difffake.extractor import Extractor, save_checkpoint
from difffake.files import write_whole, writing
from difffake.hangup import let_go_of_terminal, stop_signals
from difffake.training.batches import Batch, PairBatches, centre_matrix, loader, to_tensor, warp
from difffake.training.companions import Companions, consistency_loss, number_clips
from difffake.training.curves import draw_curves
from difffake.training.log import LogLine, RunLog
from difffake.training.memory import keep_freed_memory
from difffake.training.precision import mixed
from difffake.training.settings import TrainSettings
from difffake.training.split import CLIP_SHARES, Split, bank_of, split_people
from difffake.training.start import start_from_onnx
from difffake.training.state import RunState
from difffake.training.store import CropStore
from difffake.training.validation import HeldOutFakes, Validation

#: More steps than any run takes: where only minutes count, the batches have no end of their own.
ENDLESS = 10**9


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """What a progress bar shows. ``share`` of the budget, 0 to 1; the last validation, if there was one."""

    step: int
    share: float
    loss: float
    images_per_s: float
    validation: Validation | None


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended. ``model`` is the averaged network; ``best`` the one that validated best."""

    model: Path
    best: Path
    step: int
    elapsed_s: float
    images_per_s: float
    interrupted: bool
    validation: Validation | None


def train(
    settings: TrainSettings,
    store: CropStore,
    out_dir: Path,
    *,
    split: Split | None = None,
    held_out: HeldOutFakes | None = None,
    progress: Callable[[TrainProgress], None] | None = None,
) -> TrainResult:
    """Train an extractor, or go on where an earlier call with the same ``out_dir`` was stopped.

    Into ``out_dir`` go ``last.pt`` (to continue), ``best.pt`` and ``model.pt`` (for
    `difffake.extractor.load_checkpoint`), ``log.jsonl``, ``curves.png`` and ``settings.json``. SIGTERM, Ctrl-C
    and a closed terminal write a checkpoint and return with ``interrupted``. The crops of the people who train are
    copied into memory.

    Args:
        settings: what is trained, how, and for how long.
        store: crops of many people.
        out_dir: the run's folder.
        split: who trains and who validates; `split_people` with the settings' seed and shares if not given.
        held_out: fakes of those who validate, made before for another run; made anew if not given.
        progress: called after every step.

    Raises:
        DataError: too few crops or people, an unknown backbone, family or device, a damaged checkpoint or one of
            other settings, or a loss that is no number.
        MissingExtraError: ImageNet weights that are not installed.
        OutputError: the folder cannot be written; the last checkpoint in it is sound.
    """
    split = split or split_people(store, seed=settings.seed, clip_shares=settings.clip_shares or CLIP_SHARES)
    _require_same_division(store, settings)
    device = _device(settings.device)
    for rows, use in ((split.train, "train on"), (split.validate, "validate on")):
        if not len(rows):
            raise DataError(f"nobody is left to {use}", hint="give more people, or other shares")
    with writing(out_dir):
        out_dir.mkdir(parents=True, exist_ok=True)
    with _surroundings(settings, device), _stop_signals() as stop:
        last = out_dir / "last.pt"
        fresh = not last.exists()
        state = (
            RunState.begin(settings, device) if fresh else RunState.load(last, settings, device)
        )  # before the crops are copied: what is wrong with names and files shows at once
        if fresh and settings.start:
            begin_with(state, Path(settings.start), store, split.train, settings)
        batches = _batches(store, split.train, settings)
        if held_out is None:
            held_out = HeldOutFakes.make(bank_of(store, split.validate), store.is_video[split.validate], settings)
        write_whole(out_dir / "settings.json", msgspec.json.format(msgspec.json.encode(settings)))
        run = _Run(settings, state, held_out, out_dir, device, RunLog(out_dir / "log.jsonl", state.step))
        return run.go(batches, stop, progress)


def _require_same_division(store: CropStore, settings: TrainSettings) -> None:
    """Fakes of people who are held out must not come from a generator that has seen them."""
    made = store.generator.manifest if store.generator is not None else None
    if made is None or made.clip_shares is None or settings.clip_shares is None:
        return
    if (made.seed, made.clip_shares) != (settings.seed, settings.clip_shares):
        raise DataError(
            f"the store's face generator was trained with seed {made.seed} and --clip-shares "
            f"{' '.join(map(str, made.clip_shares))}: it has seen people whom this run holds out",
            hint="train with the same, or make it again: difffake train-generator STORE",
        )


def _batches(store: CropStore, rows: npt.NDArray[np.int64], settings: TrainSettings) -> PairBatches:
    clips = number_clips(store.people, store.is_video, store.time_s)[rows]
    companions = Companions(clips, store.time_s[rows], store.landmarks[rows])
    return PairBatches(
        bank_of(store, rows), store.is_video[rows], store.eye_distance_px[rows], settings, companions
    )  # fmt: skip


def begin_with(
    state: RunState, path: Path, store: CropStore, rows: npt.NDArray[np.int64], settings: TrainSettings
) -> None:
    """Give network and average of a new run the weights of an exported extractor; see `start_from_onnx` for errors."""
    chosen = np.sort(np.random.default_rng(settings.seed).permutation(rows)[:128])
    matrix = centre_matrix(store.crops.shape[1], settings.side_px)
    faces = to_tensor(np.stack([warp(np.asarray(store.crops[row]), matrix, settings.side_px) for row in chosen]))
    start_from_onnx(state.extractor, path, faces)
    state.average.load_state_dict(state.extractor.state_dict())


class _Run:
    def __init__(
        self,
        settings: TrainSettings,
        state: RunState,
        held_out: HeldOutFakes,
        out_dir: Path,
        device: torch.device,
        log: RunLog,
    ) -> None:
        self.settings, self.state, self.held_out = settings, state, held_out
        self.out, self.device, self.log = out_dir, device, log
        self.validation: Validation | None = log.last_validation

    def go(
        self,
        batches: PairBatches,
        stop: threading.Event,
        progress: Callable[[TrainProgress], None] | None,
    ) -> TrainResult:
        settings, state = self.settings, self.state
        end = settings.last_step or ENDLESS
        before_s, began = state.elapsed_s, time.monotonic()
        saved = ticked = began
        first, seen = state.step, 0
        rate = 0.0
        losses: list[float] = []
        batch_iter = iter(loader(batches, min(state.step, end), end, settings.workers))
        while not stop.is_set() and settings.spent(state.step, state.elapsed_s) < 1:
            batch = next(batch_iter)
            lr = settings.lr_at(state.step, state.elapsed_s)
            loss = self._step(batch, lr)
            losses.append(loss)
            state.step += 1
            now = time.monotonic()
            state.elapsed_s = before_s + now - began
            seen += 2 * settings.batch_pairs
            if state.step % settings.log_every == 0:
                rate, seen, ticked = seen / (now - ticked), 0, now
                self.log.add(LogLine(state.step, float(np.mean(losses)), lr, rate, state.elapsed_s))
                losses.clear()
            if settings.validate_every and state.step % settings.validate_every == 0:
                self._validate()
                ticked, seen = time.monotonic(), 0
            if now - saved >= 60 * settings.checkpoint_minutes:
                self._save()
                saved = time.monotonic()
            if progress is not None:
                share = settings.spent(state.step, state.elapsed_s)
                speed = rate or seen / max(now - ticked, 1e-9)
                progress(TrainProgress(state.step, share, loss, speed, self.validation))
        del batch_iter
        if not stop.is_set() and self.log.last_validated != state.step:
            self._validate()
        self._save()
        save_checkpoint(self.out / "model.pt", self._kept, side_px=settings.side_px, step=state.step)
        if not (self.out / "best.pt").exists():
            save_checkpoint(self.out / "best.pt", self._kept, side_px=settings.side_px, step=state.step)
        done = (state.step - first) * 2 * settings.batch_pairs
        spent_s = max(state.elapsed_s - before_s, 1e-9)
        return TrainResult(
            self.out / "model.pt",
            self.out / "best.pt",
            state.step,
            state.elapsed_s,
            done / spent_s,
            stop.is_set(),
            self.validation,
        )

    @property
    def _kept(self) -> Extractor:
        return self.state.average if self.settings.ema_decay else self.state.extractor

    def _step(self, batch: Batch, lr: float) -> float:
        settings, state = self.settings, self.state
        # Dropout draws from torch's own generator: seeded by the step, a continued run draws the same.
        torch.manual_seed(settings.seed * 1_000_003 + state.step)
        faces = batch.faces.to(self.device, non_blocking=True)
        companion_of = batch.companion_of.to(self.device, non_blocking=True)
        state.extractor.train()
        for group in state.optimiser.param_groups:
            group["lr"] = lr
        loss = self._backward(faces, companion_of)
        if not np.isfinite(loss):
            raise DataError(
                f"the loss of step {state.step} is {loss}",
                hint="lower lr, or train with precision fp32; the last checkpoint is sound",
            )
        if settings.sam_rho:
            with _climbed(state.extractor, settings.sam_rho):
                self._backward(faces, companion_of)
        torch.nn.utils.clip_grad_norm_(state.extractor.parameters(), 5.0)
        state.optimiser.step()
        if settings.ema_decay:
            state.follow(settings.ema_decay)
        return loss

    def _backward(self, faces: Tensor, companion_of: Tensor) -> float:
        extractor, settings = self.state.extractor, self.settings
        self.state.optimiser.zero_grad()
        with mixed(self.device, settings.precision):
            embedding = extractor.embed(faces)
        logit = extractor.classify(embedding[: len(faces) - len(companion_of)])
        loss = pair_loss(logit, settings.label_smoothing, settings.rank_weight)
        if len(companion_of):
            loss = loss + settings.consistency_weight * consistency_loss(embedding, companion_of)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    def _logits(self, faces: Tensor) -> npt.NDArray[np.float32]:
        model = self._kept.eval()
        with torch.inference_mode(), mixed(self.device, self.settings.precision):
            parts = [model.embed(part.to(self.device)) for part in torch.split(faces, 64)]
        with torch.inference_mode():
            return model.classify(torch.cat(parts)).cpu().numpy()

    def _validate(self) -> None:
        self.validation = self.held_out.score(self._logits)
        self.log.add_validation(self.state.step, self.validation)
        draw_curves(self.log.lines, self.log.validations, self.out / "curves.png")
        if self.validation.mean > self.state.best:
            self.state.best = self.validation.mean
            save_checkpoint(self.out / "best.pt", self._kept, side_px=self.settings.side_px, step=self.state.step)

    def _save(self) -> None:
        self.state.save(self.out / "last.pt", self.settings)
        self.log.flush()


def pair_loss(logit: Tensor, smoothing: float, rank_weight: float) -> Tensor:
    """Loss of logits ``(2 B,)``, B reals and then their fakes.

    Cross-entropy with smoothed targets, and ``log(1 + exp(real - fake))`` of each pair: what differs between people
    cancels in the pair, what the manipulation did stays.
    """
    real, fake = logit.chunk(2)
    target = torch.cat([torch.full_like(real, smoothing), torch.full_like(fake, 1 - smoothing)])
    cross_entropy = functional.binary_cross_entropy_with_logits(logit, target)
    return cross_entropy + rank_weight * functional.softplus(real - fake).mean()


@contextlib.contextmanager
def _climbed(extractor: Extractor, rho: float) -> Iterator[None]:
    """Inside, the weights stand ``rho`` uphill along the gradient (Foret et al. 2021, equation 2)."""
    pairs = [(p, p.grad) for p in extractor.parameters() if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for _, g in pairs]))
    steps = [(p, g * (rho / (norm + 1e-12))) for p, g in pairs]
    with torch.no_grad():
        for p, step in steps:
            p.add_(step)
    yield
    with torch.no_grad():
        for p, step in steps:
            p.sub_(step)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.split(":")[0] not in {"cpu", "cuda"} or (name != "cpu" and not torch.cuda.is_available()):
        raise DataError(f"there is no device {name!r} here", hint="use auto, cpu or cuda")
    return torch.device(name)


@contextlib.contextmanager
def _surroundings(settings: TrainSettings, device: torch.device) -> Iterator[None]:
    """Threads and random state of torch as the run needs them, and as they were afterwards."""
    threads, cv_threads = torch.get_num_threads(), cv2.getNumThreads()
    if device.type == "cpu":
        keep_freed_memory()
    torch.set_num_threads(settings.threads)
    cv2.setNumThreads(1)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(cv_threads)


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM, Ctrl-C and a terminal that is closed set; only the main thread may listen to signals."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        let_go_of_terminal()
        stop.set()

    before = {number: signal.signal(number, ask) for number in stop_signals()}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
