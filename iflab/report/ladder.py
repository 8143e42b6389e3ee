"""The sequence diagram (ladder) as rows: what to draw, not how.

A row is a frame, a fold of frames that say little, a pause, a gap in what was kept,
or something that happened. How many rows there are is bounded, whatever happened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

from .recording import LinkState, Recording
from .story import Gap, Happening, Seen
from .words import count, headline, octets, seconds

__all__ = ["Arrow", "Column", "Ladder", "Mark", "Row", "build"]

ROWS = 700
"""Rows at the top level, at most."""

UNFOLDED = 1500
"""Frames inside folds that are in the report, all folds together; ..."""

IN_FOLD = 40
"""... and in one."""

STREAK = 7
"""Frames in a row that are alike, from which on they are folded ..."""

PORTS = 16
"""Ports that have a column each; of more, those of a host share one. Those of a switch always do."""

SHOWN = 2
"""... except so many at either end."""

MarkKind = Literal["lost", "again", "altered", "flag"]


@dataclass(slots=True)
class Mark:
    """A fault or another thing to look at, shown as a label."""

    kind: MarkKind
    text: str


@dataclass(slots=True)
class Arrow:
    """From column to column; ``end`` says whether it got there."""

    start: int
    stop: int
    end: Literal["arrived", "lost", "open"]


@dataclass(slots=True)
class Row:
    """A line of the ladder. ``down``: the columns whose link is down at that moment."""

    kind: Literal["frame", "fold", "gap", "pause", "event"]
    time: float
    text: str
    arrows: list[Arrow] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    down: tuple[int, ...] = ()
    tone: str = ""
    """Of an event: its kind; of a fold: that of what it folds."""
    note: str = ""
    wire: str = ""
    columns: tuple[int, ...] = ()
    """Everyone who takes part."""
    inner: list[Row] = field(default_factory=list)
    frames: int = 1
    """So many it stands for."""
    until: float = 0.0
    """When a fold or a gap ends."""


@dataclass(slots=True)
class Column:
    """A port, or all of a host or a switch; ``owner`` is the host, switch or station."""

    name: str
    owner: str


@dataclass(slots=True)
class Ladder:
    """Columns and rows."""

    columns: list[Column]
    rows: list[Row]
    frames: int
    left_out: int


def build(recording: Recording) -> Ladder:
    """Make the ladder of a recording."""
    return _Builder(recording).ladder()


class _Down:
    """Which columns have no link at all, asked for moments that only grow."""

    def __init__(self, states: Iterable[LinkState], columns: dict[int, int]) -> None:
        self._states = sorted(states, key=lambda state: state.time)
        self._next = 0
        self._columns = columns
        self._now: dict[int, str] = {}

    def at(self, time: float) -> tuple[int, ...]:
        while self._next < len(self._states) and self._states[self._next].time <= time:
            state = self._states[self._next]
            self._now[state.lane] = state.state
            self._next += 1
        known = [
            (self._columns[lane], state == "up") for lane, state in self._now.items() if lane in self._columns
        ]
        up = {column for column, is_up in known if is_up}
        return tuple(sorted({column for column, _ in known} - up))


class _Builder:
    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        used = {
            lane for each in recording.frames if isinstance(each, Seen) for lane in (each.lane, *each.arrived)
        }
        used |= {lane for wire in recording.wires for lane in wire.lanes} if len(used) < 12 else set()
        self.heads, self.columns = _columns(recording, sorted(used))
        self.room_in_folds = UNFOLDED
        self.left_out = 0

    def ladder(self) -> Ladder:
        items = sorted(
            [*self.recording.frames, *self.recording.happenings],
            key=lambda each: each.begin if isinstance(each, Gap) else each.time,
        )
        rows = self._rows(items, STREAK)
        if len(rows) > ROWS:
            self.room_in_folds = UNFOLDED
            rows = self._rows(items, 3, anyones=True)
        if len(rows) > ROWS:
            rows = self._shorten(rows)
        down = _Down(self.recording.states, self.columns)
        for row in rows:
            row.down = down.at(row.time)
            for inner in row.inner:
                inner.down = row.down
        return Ladder(self.heads, self._with_pauses(rows), self.recording.frames_seen, self.left_out)

    # rows

    def _rows(self, items: Sequence[Seen | Gap | Happening], streak: int, anyones: bool = False) -> list[Row]:
        rows: list[Row] = []
        self.left_out = 0
        for key, group in groupby(items, key=lambda each: self._alike(each, anyones)):
            members = list(group)
            first = members[0]
            if isinstance(first, Gap):
                for gap in members:
                    assert isinstance(gap, Gap)
                    rows.append(self._gap(gap))
            elif isinstance(first, Happening):
                rows += self._events([each for each in members if isinstance(each, Happening)])
            else:
                frames = [each for each in members if isinstance(each, Seen)]
                if len(frames) < streak or key is None:
                    rows += [self._frame(each) for each in frames]
                else:
                    shown = SHOWN if streak > 2 * SHOWN else 1
                    rows += [self._frame(each) for each in frames[:shown]]
                    rows.append(self._fold(frames[shown:-shown]))
                    rows += [self._frame(each) for each in frames[-shown:]]
        return rows

    @staticmethod
    def _alike(each: Seen | Gap | Happening, anyones: bool) -> object:
        """What neighbours must share to be folded together."""
        if isinstance(each, Happening):
            return each.kind
        if isinstance(each, Gap):
            return None
        if each.header.flags > 0 and each.header.flags & 7 and not each.causes and not anyones:
            return id(each)  # SYN, FIN, RST: each is worth a line
        what = tuple(sorted({cause for _, cause in each.causes})), tuple(each.changes), each.again
        return (*what, 0 if anyones and not each.speaks else id(each.conversation))

    def _gap(self, gap: Gap) -> Row:
        self.left_out += gap.frames
        return Row(
            "gap",
            gap.begin,
            f"{count(gap.frames, 'frame')} not kept, {octets(gap.octets)} until {gap.end:.3f} s",
            until=gap.end,
        )

    def _events(self, happenings: Sequence[Happening]) -> list[Row]:
        """Links that come or go together are folded, as in a large lab; all else that happens has a row."""
        rows = [self._event(each) for each in happenings]
        if len(rows) < STREAK or rows[0].tone not in ("up", "down"):
            return rows
        first, inner = rows[0], rows[:IN_FOLD]
        if len(inner) < len(rows):
            inner.append(Row("gap", rows[IN_FOLD].time, f"and {len(rows) - IN_FOLD} more links"))
        columns = tuple(sorted({column for row in rows for column in row.columns}))
        text = f"{len(rows)} links {first.tone}"
        return [
            Row(
                "fold",
                first.time,
                text,
                tone=f"event {first.tone}",
                columns=columns,
                inner=inner,
                until=rows[-1].time,
            )
        ]

    def _event(self, happening: Happening) -> Row:
        columns: tuple[int, ...] = ()
        if happening.lane in self.columns:
            columns = (self.columns[happening.lane],)
        elif 0 <= happening.wire < len(self.recording.wires):
            lanes = self.recording.wires[happening.wire].lanes
            columns = tuple(self.columns[lane] for lane in lanes if lane in self.columns)
        return Row("event", happening.time, happening.text, tone=happening.kind, columns=columns)

    def _frame(self, seen: Seen) -> Row:
        start = self.columns[seen.lane]
        arrows = [
            Arrow(start, self.columns[lane], "arrived")
            for lane in dict.fromkeys(seen.arrived)
            if lane in self.columns
        ]
        arrows += [
            Arrow(start, self.columns.get(lane, self._opposite(seen)), "lost")
            for lane in dict.fromkeys(lane for lane, _ in seen.causes)
        ]
        marks = _befell([seen])
        if seen.again:
            marks.append(Mark("again", "retransmission"))
        if seen.header.flags > 0:
            marks += [
                Mark("flag", name)
                for bit, name in ((2, "SYN"), (1, "FIN"), (4, "RST"))
                if seen.header.flags & bit
            ]
        if not arrows:
            arrows.append(Arrow(start, self._opposite(seen), "open"))
            marks.append(Mark("altered", "still in flight"))
        delay = seen.last_arrival - seen.time if seen.arrived else 0.0
        note = f"{octets(seen.size)}" + (f", {seconds(delay)} on the way" if delay >= 0.0005 else "")
        return Row(
            "frame",
            seen.time,
            headline(seen),
            arrows,
            marks,
            note=note,
            wire=self._wire(seen),
            columns=tuple({start, *(arrow.stop for arrow in arrows)}),
        )

    def _wire(self, seen: Seen) -> str:
        return self.recording.wires[seen.wire].name if seen.wire < len(self.recording.wires) else ""

    def _opposite(self, seen: Seen) -> int:
        """Where a frame was bound that never was on its way to anybody: next to its sender on the same wire."""
        lanes = self.recording.wires[seen.wire].lanes if seen.wire < len(self.recording.wires) else []
        others = [self.columns[lane] for lane in lanes if lane != seen.lane and lane in self.columns]
        start = self.columns[seen.lane]
        return min(others, key=lambda column: abs(column - start)) if others else start

    def _fold(self, frames: Sequence[Seen]) -> Row:
        first = frames[0]
        total = sum(frame.size for frame in frames)
        partners = {id(frame.conversation) for frame in frames}
        ways = {
            (self.columns[frame.lane], self.columns[lane])
            for frame in frames
            for lane in frame.arrived
            if lane in self.columns
        }
        marks, lost = _befell(frames), any(frame.causes for frame in frames)
        if again := sum(frame.header.segments for frame in frames if frame.again):
            marks.append(Mark("again", f"retransmission ×{again:,}"))
        if not ways:
            ways = {(self.columns[frame.lane], self._opposite(frame)) for frame in frames}
        whose = first.conversation.label if len(partners) == 1 else count(len(partners), "conversation")
        took = frames[-1].time - first.time
        shown = frames[: max(0, min(IN_FOLD, self.room_in_folds))]
        self.room_in_folds -= len(shown)
        inner = [self._frame(frame) for frame in shown]
        if inner and len(shown) < len(frames):
            rest = count(len(frames) - len(shown), "more frame")
            inner.append(Row("gap", frames[len(shown)].time, f"and {rest} like these"))
        end: Literal["arrived", "lost"] = "lost" if lost else "arrived"
        return Row(
            "fold",
            first.time,
            f"{count(len(frames), 'frame')}, {octets(total)} in {seconds(took)}",
            [Arrow(start, stop, end) for start, stop in sorted(ways)[:200]],
            marks,
            tone="lost" if lost else "again" if again else "",
            note=whose,
            wire=self._wire(first) if len(partners) == 1 else "",
            columns=tuple({column for way in ways for column in way}),
            inner=inner,
            frames=len(frames),
            until=frames[-1].time,
        )

    # what is too long, and what takes long

    def _shorten(self, rows: list[Row]) -> list[Row]:
        """Keep what happened and was marked as far as there is room; the middle of the rest goes."""
        half = ROWS // 2
        head, middle, tail = rows[: half // 2], rows[half // 2 : -half // 2], rows[-half // 2 :]
        room = ROWS - len(head) - len(tail)
        kept: list[Row] = []
        gone, since = 0, 0.0
        for row in middle:
            if room > 0 and (row.kind in ("event", "gap") or row.marks):
                if gone:
                    kept.append(Row("gap", since, f"{count(gone, 'line')} left out here"))
                    gone = 0
                kept.append(row)
                room -= 2
            else:
                since = since if gone else row.time
                gone += 1
                self.left_out += row.frames if row.kind in ("frame", "fold") else 0
        if gone:
            kept.append(Row("gap", since, f"{count(gone, 'line')} left out here"))
        return [*head, *kept, *tail]

    def _with_pauses(self, rows: Sequence[Row]) -> list[Row]:
        long = max(0.02, (self.recording.end - self.recording.begin) / 25)
        return list(_pauses(rows, long))


def _columns(recording: Recording, lanes: Sequence[int]) -> tuple[list[Column], dict[int, int]]:
    """The columns, and the one of each lane."""
    owners = {lane: node for node in recording.nodes for lane in node.lanes}
    heads: dict[str, Column] = {}
    names: dict[int, str] = {}
    for lane in lanes:
        name, owner = recording.lanes[lane].name, owners.get(lane)
        if owner is not None and (owner.kind == "switch" or len(lanes) > PORTS):
            name = owner.name
        names[lane] = name
        heads.setdefault(name, Column(name, owner.name if owner is not None else name))
    places = {name: place for place, name in enumerate(heads)}
    return list(heads.values()), {lane: places[name] for lane, name in names.items()}


def _befell(frames: Iterable[Seen]) -> list[Mark]:
    """What was lost of frames and why, and what else was done to them, with how often."""
    lost = Counter(f"lost: {cause}" for frame in frames for _, cause in frame.causes)
    changed = Counter(text for frame in frames for text in frame.changes)
    kinds: tuple[tuple[MarkKind, Counter[str]], ...] = (("altered", changed), ("lost", lost))
    return [
        Mark(kind, text + (f" ×{times:,}" if times > 1 else ""))
        for kind, counts in kinds
        for text, times in counts.items()
    ]


def _pauses(rows: Sequence[Row], long: float) -> Iterator[Row]:
    before: float | None = None
    down: tuple[int, ...] = ()
    for row in rows:
        if before is not None and row.time - before >= long:
            yield Row("pause", before, f"{seconds(row.time - before)} of silence", down=down)
        yield row
        before, down = max(row.time, row.until, before or 0.0), row.down
