"""Training of the face generators behind two families of pseudo-fakes, on the training people's faces alone.

An autoencoder with a code for the person, as live swap tools train theirs: from a bent and recoloured picture of a
person, and the code of another picture of the same person, the first picture is to be drawn. With the code of
somebody else it then draws a swap. A critic (hinge loss, spectral norm: Miyato et al. 2018) gives the drawings
texture: with L1 and SSIM alone they are blurred, and real swaps are not.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from difffake.errors import DataError
from difffake.files import writing
from difffake.pseudofake.colour import jitter_colour
from difffake.pseudofake.generator import FACE_PX, GeneratorManifest, take_face
from difffake.training.batches import _start_worker
from difffake.training.generator_net import (
    Critic,
    Redrawer,
    RedrawerOfPixels,
    Swapper,
    SwapperOfPixels,
    drawing_loss,
    from_pixels,
)
from difffake.training.memory import keep_freed_memory
from difffake.training.precision import mixed
from difffake.training.store import CropStore

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

VERSION = 1
#: Faces that are held in memory at once, 49 kB each.
MAX_FACES = 40_000
_BEND_PX = 5.0
_ENDLESS = 10**9


class GeneratorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the generators are trained.

    Args:
        minutes: of training.
        batch: faces a step.
        lr: of Adam for the generators; the critic's is the same.
        critic_weight: of the critic's judgement in the generators' loss.
        critic_after: share of the budget after which the critic joins.
        seed: of weights and batches.
        threads: of torch.
        precision: ``bf16`` or ``fp32``.
    """

    minutes: float = 20.0
    batch: int = 10
    lr: float = 8e-4
    critic_weight: float = 0.04
    critic_after: float = 0.4
    seed: int = 0
    threads: int = 1
    precision: str = "bf16"

    def __post_init__(self) -> None:
        if not (
            0 < self.minutes < math.inf and self.lr > 0 and 0 <= self.critic_after <= 1 and self.critic_weight >= 0
        ):
            raise DataError(
                f"{self.minutes} minutes of training, or a rate of it, is out of its range",
                hint="give more than nothing",
            )
        if min(self.batch, self.threads) < 1 or self.seed < 0:
            raise DataError(
                "a count of the generators' training is out of its range", hint="batch, threads >= 1; seed >= 0"
            )


#: Called after every step with the share of the budget spent, and the losses of swapper and redrawer.
Progress = Callable[[float, float, float], None]


class FacePairs(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Item ``step``: faces bent and recoloured, the same faces as they are, and other pictures of the same people.

    Each ``(B, 128, 128, 3) uint8``. Of a person with one picture the other one is its mirror image, recoloured. People
    come up evenly.
    """

    def __init__(self, faces: U8, people: npt.NDArray[np.int32], settings: GeneratorSettings) -> None:
        self._faces, self._settings = faces, settings
        order = np.argsort(people, kind="stable")
        self._groups = np.split(order, np.flatnonzero(np.diff(people[order])) + 1)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng([self._settings.seed, step])
        seen, wanted, others = (np.empty((self._settings.batch, FACE_PX, FACE_PX, 3), np.uint8) for _ in range(3))
        for i in range(self._settings.batch):
            group = self._groups[int(rng.integers(len(self._groups)))]
            row = int(rng.choice(group))
            other = int(rng.choice(group[group != row])) if len(group) > 1 else -1
            face = self._faces[row]
            theirs = self._faces[other] if other >= 0 else face[:, ::-1]
            if rng.random() < 0.5:
                face, theirs = face[:, ::-1], theirs[:, ::-1]
            wanted[i] = face
            seen[i] = jitter_colour(_bend(np.ascontiguousarray(face), rng), rng, strength=0.3)
            others[i] = jitter_colour(_bend(np.ascontiguousarray(theirs), rng), rng, strength=0.5)
        return torch.from_numpy(seen), torch.from_numpy(wanted), torch.from_numpy(others)


def _bend(face: U8, rng: np.random.Generator) -> U8:
    """The face under a smooth random displacement of a few px."""
    knots = rng.normal(0, _BEND_PX / 2, size=(5, 5, 2)).astype(np.float32).clip(-_BEND_PX, _BEND_PX)
    flow = cv2.resize(knots, (FACE_PX, FACE_PX), interpolation=cv2.INTER_CUBIC)
    y, x = np.mgrid[:FACE_PX, :FACE_PX].astype(np.float32)
    return np.asarray(
        cv2.remap(face, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.uint8
    )


def train_generator(
    store: CropStore,
    rows: I64,
    out: Path,
    settings: GeneratorSettings | None = None,
    progress: Progress | None = None,
    *,
    clip_shares: tuple[float, float, float] | None = None,
) -> GeneratorManifest:
    """Train swapper and redrawer on the crops ``rows`` of a store and write them into the folder ``out``.

    Give the people who train the extractor and nobody else: fakes of held-out people must come from a generator that
    never saw them. ``clip_shares`` by which ``rows`` were chosen is written down, so that nobody mixes them up.

    Raises:
        DataError: fewer than two people, or a loss that is no number.
        OutputError: the folder cannot be written; what was in it still is.
    """
    settings = settings or GeneratorSettings()
    if len(rows) > MAX_FACES:
        rows = np.sort(np.random.default_rng(settings.seed).choice(rows, MAX_FACES, replace=False))
    people = store.people[rows]
    if len(np.unique(people)) < 2:
        raise DataError("a face generator needs several people", hint="prepare crops of more people")
    keep_freed_memory()
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    faces = np.stack([take_face(np.asarray(store.crops[row]), store.landmarks[row]) for row in rows])
    nets = _Nets(settings)
    cv2.setNumThreads(1)
    batches = DataLoader(
        FacePairs(faces, people, settings), batch_size=None, sampler=range(_ENDLESS), num_workers=1,
        worker_init_fn=_start_worker, multiprocessing_context="fork", prefetch_factor=4,
    )  # fmt: skip
    began, step = time.monotonic(), 0
    for seen, wanted, others in batches:
        spent = (time.monotonic() - began) / (60 * settings.minutes)
        if spent >= 1:
            break
        losses = nets.step(seen, wanted, others, spent)
        step += 1
        if not np.isfinite(losses).all():
            raise DataError(f"the generators' loss of step {step} is {losses}", hint="lower lr or critic_weight")
        if progress is not None:
            progress(spent, *losses)
    made = GeneratorManifest(
        VERSION, {}, len(np.unique(people)), len(rows), step, settings.minutes, settings.seed, clip_shares
    )
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with writing(out):
        made = _write(nets, partial, made)
        shutil.rmtree(out, ignore_errors=True)
        partial.replace(out)
    return made


class _Nets:
    def __init__(self, settings: GeneratorSettings) -> None:
        self.settings = settings
        self.swapper, self.redrawer, self.critic = Swapper(), Redrawer(), Critic()
        for net in (self.swapper, self.redrawer, self.critic):
            net.to(memory_format=torch.channels_last)
        drawn = [*self.swapper.parameters(), *self.redrawer.parameters()]
        self.optimiser = torch.optim.Adam(drawn, lr=settings.lr, betas=(0.5, 0.99))
        self.judge = torch.optim.Adam(self.critic.parameters(), lr=settings.lr, betas=(0.5, 0.99))

    def step(self, seen: Tensor, wanted: Tensor, others: Tensor, spent: float) -> tuple[float, float]:
        settings, cpu = self.settings, torch.device("cpu")
        lr = settings.lr * min(1.0, 2 * (1 - spent) + 0.05)
        for group in [*self.optimiser.param_groups, *self.judge.param_groups]:
            group["lr"] = lr
        seen, wanted, others = (from_pixels(faces) for faces in (seen, wanted, others))
        critical = spent >= settings.critic_after
        half = len(seen) // 2
        with mixed(cpu, settings.precision):
            swapped = self.swapper.drawn_from(seen, others)
            redrawn = self.redrawer(wanted[:half])
        losses = drawing_loss(swapped, wanted), drawing_loss(redrawn, wanted[:half])
        total = losses[0] + losses[1]
        drawn = torch.cat([swapped[half:], redrawn]).float()
        if critical:
            self.critic.requires_grad_(False)
            with mixed(cpu, settings.precision):
                total = total - settings.critic_weight * self.critic(drawn).float().mean()
            self.critic.requires_grad_(True)
        self.optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([*self.swapper.parameters(), *self.redrawer.parameters()], 5.0)
        self.optimiser.step()
        if critical:
            with mixed(cpu, settings.precision):
                genuine, made = self.critic(wanted).float(), self.critic(drawn.detach()).float()
            blame = functional.relu(1 - genuine).mean() + functional.relu(1 + made).mean()
            self.judge.zero_grad()
            blame.backward()  # type: ignore[no-untyped-call]
            self.judge.step()
        return losses[0].item(), losses[1].item()


def _write(nets: _Nets, out: Path, made: GeneratorManifest) -> GeneratorManifest:
    out.mkdir(parents=True, exist_ok=True)
    face = torch.zeros(2, FACE_PX, FACE_PX, 3, dtype=torch.uint8)
    mix = torch.zeros(2)
    graphs: dict[str, tuple[nn.Module, tuple[Tensor, ...], list[str]]] = {
        "swapper": (SwapperOfPixels(nets.swapper), (face, face, mix), ["target", "donor", "mix"]),
        "redrawer": (RedrawerOfPixels(nets.redrawer), (face,), ["target"]),
    }
    hashes = {}
    for name, (module, example, inputs) in graphs.items():
        path = out / f"{name}.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer says that it is the older of two
            torch.onnx.export(
                module.float().eval(), example, str(path), input_names=inputs, output_names=["drawn"],
                dynamic_axes={key: {0: "batch"} for key in [*inputs, "drawn"]}, opset_version=17, dynamo=False,
            )  # fmt: skip
        hashes[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = msgspec.structs.replace(made, sha256=hashes)
    (out / "generator.json").write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    return manifest
