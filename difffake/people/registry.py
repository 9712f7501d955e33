"""Who is who for the life of a stream: tracks joined to people by their faces, across cuts, gaps and mistakes."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from difffake.errors import DataError
from difffake.people.active import ActiveTracks
from difffake.people.galleries import CORE, Galleries
from difffake.people.ledger import UNKNOWN, Arrays, Ledger
from difffake.people.matching import assign, costs
from difffake.people.saved import State, pack, unpack
from difffake.people.sightings import F32, F64, I64, Kind, PeopleSettings, PersonEvent, Sightings
from difffake.people.vectors import among

Mask = npt.NDArray[np.bool_]


class People:
    """The people of one stream. Frames go in by `update`; the ids that come out are never used twice.

    A track is one person. Whoever a track shows when it begins is looked for among the known; nobody is two faces of
    one frame. What becomes of the face later does not change the person: a face that turns into somebody else's in
    the middle of a track is what the identity evidence is there to see. Only where the tracker may have taken one
    face for another (they came close, one jumped, or was away) and the other is somebody known, the track is divided.
    Decisions on few faces are put right: see `PersonEvent` and `resolve`.

    Args:
        settings: `PeopleSettings()` if not given.
    """

    def __init__(self, settings: PeopleSettings | None = None) -> None:
        self._settings = settings or PeopleSettings()
        self._next = 0
        self._shot = 0
        self._clock = -np.inf
        self._names: dict[int, str] = {}
        self.events: deque[PersonEvent] = deque(maxlen=self._settings.max_events)
        self._ledger = Ledger(self._settings.max_tracks)
        self._size = -1
        self._begin(0)

    def _begin(self, size: int) -> None:
        s = self._settings
        self._known = Galleries(size, s.exemplars, s.diverse, s.near)
        self._active = ActiveTracks(size, s)

    def _accept_size(self, size: int) -> None:
        """The first embeddings say how many numbers they all have."""
        if self._size < 0:
            self._size = size
            self._begin(size)
        elif self._size != size:
            raise DataError(
                f"identity embeddings of {size} numbers after some of {self._size}",
                hint="one stream is followed with one identity network",
            )

    def __len__(self) -> int:
        """People remembered now."""
        return len(self._known)

    def take_events(self) -> list[PersonEvent]:
        """The corrections since the last call."""
        taken = list(self.events)
        self.events.clear()
        return taken

    def name_of(self, person: int) -> str | None:
        """The name under which a person was enrolled."""
        return self._names.get(person)

    @property
    def names(self) -> dict[str, int]:
        """Enrolled name -> person."""
        return {name: person for person, name in self._names.items()}

    def remembers(self, person: int) -> bool:
        """Whether this person could be recognised; where there is no identity network, nobody could."""
        return self._known.row(person) >= 0

    def fits(self, identity_dim: int, now_s: float) -> bool:
        """Whether faces with identity embeddings of this size may come after ``now_s``."""
        return self._size in (-1, identity_dim) and self._clock <= now_s

    def ambiguous(self, person: int) -> I64:
        """Ids of the people whose faces cannot be told from this one's, because they were seen beside each other."""
        known = self._known
        row = known.row(person)
        if row < 0 or known.twins[row] == UNKNOWN:
            return np.zeros(0, np.int64)
        alike = known.id[: len(known)][known.twins[: len(known)] == known.twins[row]]
        return np.sort(alike[alike != person])

    def resolve(self, track: I64, time_s: F64 | None = None) -> I64:
        """Person ids ``(N,) int64`` of tracks as known now, -1 if unknown.

        Args:
            track: ``(N,) int64``.
            time_s: ``(N,) float64``: who a divided track was then. Left out: who it is at its end.
        """
        times = None if time_s is None else np.asarray(time_s, np.float64)
        return self._ledger.resolve(np.asarray(track, np.int64), times)

    def enrol(self, name: str, identity: F32) -> int:
        """Make a person known by ``(K, I) float32`` embeddings of its face; returns its id.

        Enrolled exemplars never change. Somebody in the stream with just this face gets the name, and keeps the id.

        Raises:
            DataError: no embedding, not finite, or of another size; a name that is empty or taken.
        """
        faces = np.asarray(identity, np.float32)
        if faces.ndim != 2 or not len(faces) or not faces.shape[1] or not np.isfinite(faces).all():
            raise DataError(
                f"nobody can be enrolled by {faces.shape} embeddings", hint="give (K, I) finite embeddings of one face"
            )
        if not 1 <= len(name) <= 256 or name in self._names.values():
            raise DataError(f"cannot enrol {name[:256]!r}", hint="give a name of 1 to 256 characters, once")
        if len(self._names) >= self._settings.max_people:
            raise DataError(f"more than {self._settings.max_people} names", hint="enrol fewer people")
        self._accept_size(faces.shape[1])
        person = self._new_id()
        self._names[person] = name
        self._forget_one(np.zeros(0, np.int64))
        # Farthest first: the exemplars that show most.
        chosen = [0]
        while len(chosen) < min(len(faces), self._settings.exemplars):
            chosen.append(int(np.linalg.norm(faces[:, None] - faces[chosen][None], axis=2).min(axis=1).argmax()))
        row = self._known.add(person, faces[chosen], self._clock, enrolled=True)
        self._merge_if_same(person, row)
        return next(key for key, value in self._names.items() if value == name)

    def replace(self, name: str, identity: F32) -> int:
        """`enrol` a name again by other faces; the person keeps their number if they are alike.

        Raises:
            DataError: as `enrol`.
        """
        before = self.names.get(name)
        if before is None:
            return self.enrol(name, identity)
        del self._names[before]
        self._known.enrolled[self._known.row(before)] = False
        after = self.enrol(name, identity)
        if after != before:
            self.forget(before)
        return after

    def forget(self, person: int) -> None:
        """Forget a person's faces and name; whoever shows this face next is somebody new."""
        self._names.pop(person, None)
        row = self._known.row(person)
        if row >= 0:
            self._known.remove(row)
        self._active.release(np.flatnonzero(self._active.person == person), self._clock)

    def update(self, faces: Sightings) -> I64:
        """Person id ``(N,) int64`` of each face as known after its frame; -1: not known yet.

        Batches may be cut anywhere between frames, and faces of a frame may come in any order.

        Raises:
            DataError: times before those of the last call, or embeddings of another size.
        """
        out = np.full(len(faces), UNKNOWN, np.int64)
        for frame in faces.frames() if len(faces) else ():
            time_s, shot = float(faces.time_s[frame.start]), int(faces.shot[frame.start])
            out[frame] = self.see(time_s, shot, faces.track[frame], faces.identity[frame], faces.boxes_px[frame])
        return out

    def see(self, time_s: float, shot: int, track: I64, identity: F32, boxes_px: F32) -> I64:
        """`update` with the faces of one frame, no track twice: arrays as in `Sightings`, which are not checked again.

        Raises:
            DataError: a time before that of the last call, embeddings of another size, or a box that is not finite.
        """
        if not len(track):
            return np.zeros(0, np.int64)
        if time_s < self._clock:
            raise DataError("sightings from before the last ones", hint="pass frames in order of time")
        if not np.isfinite(boxes_px).all():
            raise DataError("a box that is not finite", hint="pass tracked faces")
        self._accept_size(identity.shape[1])
        self._clock, self._shot = time_s, shot
        if len(track) == 1:
            if self._is_only_one(int(track[0]), identity[0]):
                return self._go_on(identity[0], boxes_px[0])
            return self._frame(track, identity, boxes_px)
        order = np.argsort(track, kind="stable")
        out = np.empty(len(track), np.int64)
        out[order] = self._frame(track[order], identity[order], boxes_px[order])
        return out

    def _new_id(self) -> int:
        self._next += 1
        return self._next - 1

    def _is_only_one(self, track: int, face: F32) -> bool:
        """Whether the only face is that of the only track, whose person is the only one known: there is nobody to take
        it for. It is what most streams show."""
        known, active = self._known, self._active
        return (
            known.size > 0
            and len(known) == len(active) == 1
            and int(active.track[0]) == track
            and int(active.person[0]) == int(known.id[0])
            and int(active.count[0]) + 1 != self._settings.decide_after
            and bool(np.isfinite(face).all())
        )

    def _go_on(self, face: F32, box: F32) -> I64:
        """`_frame` with the only one."""
        known, active = self._known, self._active
        active.sight_only(self._shot, box, self._clock)
        active.average_only(face)
        self._learn_one(0, 0, face)
        known.seen_s[0], known.box[0] = self._clock, box
        return active.person[:1].copy()

    def _frame(self, track: I64, identity: F32, box: F32) -> I64:
        known, active = self._known, self._active
        rows = active.sight(track, self._shot, box, self._clock)
        if not known.size:
            for row in rows[active.person[rows] == UNKNOWN]:
                active.person[row] = self._new_id()
                self._ledger.assign(int(active.track[row]), int(active.person[row]))
            return active.person[rows]
        usable = np.asarray(np.isfinite(identity).all(axis=1), bool)
        seen, face = rows[usable], identity[usable]
        distance = None
        if len(rows) > 1 or len(known) > 1:  # one face and one person cannot be confused with others
            distance = np.full((len(rows), len(known)), np.inf)
            distance[usable] = known.distances(face)
            self._one_face_each(rows, distance)
        active.average(seen, face)
        if distance is not None:
            self._divide(rows, usable, distance)
        self._doubt_young(seen)
        self._recognise(rows, usable, identity)
        self._learn(seen, face)
        self._note_visible(rows, box)
        return active.person[rows]

    def _one_face_each(self, rows: I64, distance: F64) -> None:
        """A track that came back while its person was found elsewhere: the face farther from the person is released."""
        known, active = self._known, self._active
        if not len(known) or len(rows) < 2:
            return
        mine = known.rows(active.person[rows])
        own = np.where(mine >= 0, distance[np.arange(len(rows)), mine], np.inf)
        order = np.lexsort((active.track[rows], own))
        people = active.person[rows][order]
        _, first = np.unique(people, return_index=True)
        twice = np.ones(len(rows), bool)
        twice[first] = False
        late = order[twice & (people != UNKNOWN)]
        active.release(rows[late], self._clock)

    def _divide(self, rows: I64, usable: Mask, distance: F64) -> None:
        """Divide tracks that went over to another known person where the tracker may have confused the two."""
        known, active, s = self._known, self._active, self._settings
        if len(known) < 2:
            return
        mine = known.rows(active.person[rows])
        at = np.flatnonzero(usable & (mine >= 0) & (active.count[rows] > s.decide_after))
        if not len(at):
            return
        own = distance[at, mine[at]]
        others = distance[at].copy()
        others[np.arange(len(at)), mine[at]] = np.inf
        nearest = others.argmin(axis=1)
        other = others[np.arange(len(at)), nearest]
        stray = (own > s.near) & (other < s.near) & (own - other > s.stray_margin)
        r = rows[at]
        active.near_s[r[own <= s.near]] = self._clock
        active.settle(r[~stray])
        target = known.id[nearest]
        again = stray & (active.stray_to[r] == target)
        active.stray_count[r[again]] += 1
        new = stray & ~again
        active.stray_to[r[new]], active.stray_s[r[new]], active.stray_count[r[new]] = target[new], self._clock, 1
        ripe = stray & (active.stray_count[r] >= 2) & (active.doubt_s[r] >= active.near_s[r] - s.memory_s)
        wants = dict(zip(r[ripe].tolist(), target[ripe].tolist(), strict=True))
        holder = dict(zip(active.person[rows].tolist(), rows.tolist(), strict=True))
        for row, person in wants.items():
            held = holder.get(person)
            # The place must be free, or its holder must want to go just where this one comes from.
            if held is None or wants.get(held) == active.person[row]:
                self._hand_over(row, person)

    def _hand_over(self, row: int, person: int) -> None:
        active = self._active
        since, track = float(active.stray_s[row]), int(active.track[row])
        self.events.append(PersonEvent(Kind.SPLIT, since, int(active.person[row]), person, track))
        self._ledger.split(track, since, person)
        active.person[row], active.born[row], active.near_s[row] = person, 0, self._clock
        active.settle(np.array([row]))

    def _doubt_young(self, seen: I64) -> None:
        """A track whose first faces together are not near the person that the very first one was near to."""
        known, active, s = self._known, self._active, self._settings
        young = seen[active.count[seen] == s.decide_after]
        if not len(young):
            return
        young = young[(active.person[young] != UNKNOWN) & (active.born[young] == 0)]
        mine = known.rows(active.person[young])
        young, mine = young[mine >= 0], mine[mine >= 0]
        if len(young):
            own = known.distances(active.mean[young])[np.arange(len(young)), mine]
            active.person[young[own > s.accept]] = UNKNOWN

    def _recognise(self, rows: I64, usable: Mask, identity: F32) -> None:
        """Find who the tracks are that are nobody's yet."""
        known, active, s = self._known, self._active, self._settings
        at = (usable & (active.person[rows] == UNKNOWN)).nonzero()[0]
        if not len(at):
            return
        r = rows[at]
        final = active.count[r] >= s.decide_after
        distance = known.distances(active.mean[r])
        taken = among(known.id[: len(known)], active.person[rows])
        twins = known.twins[: len(known)]
        cost = costs(distance, twins, known.box[: len(known)], active.box[r], 2 * s.margin)
        pair = assign(distance, cost, final, taken, twins, s)
        for i in np.flatnonzero(pair >= 0):
            self._settle_person(int(r[i]), int(known.id[pair[i]]))
        for i in np.flatnonzero(pair < 0):
            # Anew for each: the face before may have become somebody just now.
            away = known.distances(active.mean[r[i]][None])[0]
            nearest = float(away.min(initial=np.inf))
            free = ~among(known.id[: len(known)], active.person[rows])
            # Waiting for more faces makes sense while it may be somebody who is not elsewhere in the picture.
            if final[i] or (nearest > s.near and away[free].min(initial=np.inf) > s.fresh):
                alike = int(known.id[away.argmin()]) if nearest < s.near else UNKNOWN
                self._create(int(r[i]), identity[at[i]], alike, rows)

    def _settle_person(self, row: int, person: int) -> None:
        active = self._active
        track, since = int(active.track[row]), float(active.since_s[row])
        active.person[row], active.near_s[row] = person, self._clock
        if np.isfinite(since):
            before = int(self._ledger.resolve(np.array([track]), None)[0])
            self._ledger.split(track, since, person)
        else:
            since, before = self._clock, self._ledger.assign(track, person)
        if before not in (UNKNOWN, person):
            self.events.append(PersonEvent(Kind.SPLIT, since, before, person, track))

    def _create(self, row: int, face: F32, alike: int, rows: I64) -> None:
        """Somebody new; ``alike``: who this face would be, were that person not elsewhere in the same picture."""
        known, active = self._known, self._active
        self._forget_one(active.person[rows])
        person = self._new_id()
        new = known.add(person, face[None], self._clock)
        twin = known.row(alike)
        if twin >= 0:
            if known.twins[twin] == UNKNOWN:
                known.twins[twin] = alike
            known.twins[new] = known.twins[twin]
        active.born[row] = 1
        self._settle_person(row, person)

    def _learn(self, seen: I64, face: F32) -> None:
        for row, one in zip(seen.tolist(), face, strict=True):
            mine = self._known.row(int(self._active.person[row]))
            if mine >= 0:
                self._learn_one(row, mine, one)

    def _learn_one(self, row: int, mine: int, face: F32) -> None:
        """Take the face of a track in a row into its person's gallery."""
        active, s = self._active, self._settings
        born, count = bool(active.born[row]), int(active.count[row])
        if (not born and count <= s.decide_after) or (born and count == 1):
            return
        if self._known.learn(mine, face, restart=born and count <= s.exemplars):
            self._merge_if_same(int(active.person[row]), mine)

    def _note_visible(self, rows: I64, box: F32) -> None:
        known, active = self._known, self._active
        mine = known.rows(active.person[rows])
        is_known = mine >= 0
        here = mine[is_known]
        if len(here) > 1:
            known.together[np.ix_(here, here)] = True
            known.together[here, here] = False
        known.seen_s[here], known.box[here] = self._clock, box[is_known]

    def _merge_if_same(self, person: int, row: int) -> None:
        """Make one of two people whose galleries are alike and who were never in one picture."""
        known, active, s = self._known, self._active, self._settings
        settled = (known.count[: len(known)] >= CORE) | known.enrolled[: len(known)]
        if not settled[row]:
            return
        distance = known.distances(known.centre[row][None])[0]
        visible = among(known.id[: len(known)], active.person[active.seen_s == self._clock])
        name = self._names.get(person)
        rival = np.array([name is not None and int(i) in self._names for i in known.id[: len(known)]], bool)
        apart = known.together[row, : len(known)] | rival | (visible & visible[row])
        apart[row] = True
        distance[apart | ~settled] = np.inf
        other = int(distance.argmin())
        if not distance[other] < s.merge:
            return
        gone, survivor = (row, other) if known.id[row] > known.id[other] else (other, row)
        old, new = int(known.id[gone]), int(known.id[survivor])
        if old in self._names:
            self._names[new] = self._names.pop(old)
            known.take_over(survivor, gone)
        known.merge(gone, survivor)
        known.twins[: len(known)][known.twins[: len(known)] == old] = new
        active.person[active.person == old] = new
        active.stray_to[active.stray_to == old] = new
        self._ledger.merge(old, new)
        self.events.append(PersonEvent(Kind.MERGED, self._clock, old, new))

    def _forget_one(self, visible: I64) -> None:
        """Make room for one more person."""
        known = self._known
        while len(known) >= self._settings.max_people:
            ids = known.id[: len(known)]
            kept = np.isin(ids, [*self._names, *visible.tolist()])
            if kept.all():
                kept = np.isin(ids, list(self._names))
            if kept.all():
                return
            rows = np.flatnonzero(~kept)
            known.remove(int(rows[np.lexsort((ids[rows], known.seen_s[rows]))[0]]))

    def to_arrays(self) -> Arrays:
        """The whole state, but for the settings; `from_arrays` goes on exactly from here."""
        return {name: array.copy() for name, array in self.views().items()}

    def views(self) -> Arrays:
        """`to_arrays` without copies: to be read before anything changes."""
        tables = self._ledger.views() | self._known.views() | self._active.views()
        return pack(tables, State(self._size, self._next, self._shot, self._clock, self._names, list(self.events)))

    @classmethod
    def from_arrays(cls, arrays: Arrays, settings: PeopleSettings | None = None) -> People:
        """The registry of `to_arrays`.

        Raises:
            DataError: arrays that are missing, of another shape or type, beyond the bounds, or that contradict
                each other.
        """
        people = cls(settings)
        state = unpack(arrays, people._settings)
        people._next, people._shot, people._clock = state.next_id, state.shot, state.clock
        people._names = state.names
        people.events.extend(state.events)
        people._ledger = Ledger.from_arrays(arrays, people._settings.max_tracks)
        people._size = state.size
        people._begin(max(state.size, 0))
        people._known.restore(arrays)
        people._active.restore(arrays)
        return people
