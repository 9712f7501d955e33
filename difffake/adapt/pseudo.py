"""Pseudo-fakes of people whom the extractor has not seen, as clips that a head can learn from (extra ``train``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from difffake.adapt.clips import AS_RECORDED, PSEUDO_FAKES, LabelledClip
from difffake.errors import DataError
from difffake.evaluation.features import Features
from difffake.evaluation.layouts import FAKE, REAL, Item
from difffake.training.fit import Clip, FitSettings, HeldOut, Progress, embed_held_out
from difffake.training.split import I64, bank_of, shares_as_trained, split_people
from difffake.training.store import CropStore
from engines.contract import Engine


class _Divided(msgspec.Struct):
    """What decided who trained; see `difffake.training.settings.TrainSettings`."""

    seed: int = 0
    clip_shares: tuple[float, float, float] | None = None


def held_out_rows(
    store: CropStore, training: Mapping[str, Any], clip_shares: tuple[float, float, float] | None = None
) -> I64:
    """The rows of the people who are kept for fitting, divided as a bundle's manifest says that its extractor was.

    Args:
        store: whom the extractor was trained on, among others.
        training: what the manifest says of the training.
        clip_shares: for a manifest that does not name them.

    Raises:
        DataError: the manifest names other shares, or none that can be read.
    """
    try:
        known = msgspec.convert(training.get("settings", {}), _Divided)
    except msgspec.ValidationError as error:
        raise DataError(f"the bundle's settings of the training: {error}", hint="fit it again") from error
    shares = shares_as_trained(known.clip_shares, clip_shares)
    return split_people(store, seed=known.seed, clip_shares=shares).fit


def pseudo_clips(
    store: CropStore,
    rows: I64,
    engine: Engine,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[LabelledClip]:
    """Real faces and pseudo-fakes of the people of ``rows``, embedded; `held_out_rows` are those of people not seen.

    Photos went through a stream's degradation, real and fake alike, and are clips of one face.
    """
    held_out = embed_held_out(
        bank_of(store, rows),
        store.time_s[rows].astype(np.float64),
        store.is_video[rows],
        engine,
        FitSettings(seed=seed),
        progress,
    )
    return clips_of(held_out)


def clips_of(held_out: HeldOut) -> list[LabelledClip]:
    """Clips by person: the real one, and a fake by every family that was made of it."""
    found: list[LabelledClip] = []
    for i, real in enumerate(held_out.real):
        found.append(_clip(real, "", i))
        found += [_clip(clips[i], family, i) for family, clips in held_out.fakes.items() if len(clips[i].logit)]
    return found


def _clip(clip: Clip, family: str, number: int) -> LabelledClip:
    person, count = f"store {clip.person}", len(clip.logit)
    video = f"{person} {number}"
    unknown = np.zeros(count, np.int64)
    features = Features(
        time_s=clip.time_s,
        track=unknown,
        person=unknown,
        yaw_deg=np.full(count, np.nan, np.float32),
        embedding=clip.embedding,
        logit=clip.logit,
        identity=np.zeros((count, 0), np.float32),
        frames=count,
        faces=count,
    )
    item = Item(Path(), FAKE if family else REAL, person, f"{video} {family}".strip(), pair=video, method=family)
    return LabelledClip(item, person, family, AS_RECORDED, PSEUDO_FAKES, features)
