"""Faults on purpose: cables that lose, delay, change and reorder what passes, the same way every time.

::

    cable.impair(Loss(0.01), Delay(0.02, jitter=0.005), towards=port)
    cable.impair(Rate(10e6, burst=16_000, latency=0.05))
    cable.impair()

===================  =========================================================
``kinds.py``         the faults and their parameters
``distribution.py``  how delays scatter
``stream.py``        random numbers by frame
``channel.py``       one direction: deciding, queueing, being under way
``faults.py``        ``Faults``: all of a run, with its seed
``record.py``        the record of a run, and reading it to replay it
``schedule.py``      what happens when
===================  =========================================================

Faults of NICs are in ``iflab/drivers/faulty.py``, disciplines of send queues in
``iflab/net/altq.py``.
"""

from __future__ import annotations

from .distribution import Distribution, Measured, Normal, Pareto, Table, Uniform
from .errors import FaultError
from .faults import Faults, NicStruck, Struck
from .kinds import (
    Corrupt,
    Cut,
    Delay,
    Duplicate,
    Fault,
    GilbertElliott,
    LoseEvery,
    LoseFrames,
    Loss,
    Mtu,
    Rate,
    Reorder,
    Truncate,
)
from .record import Record, Recorder, RecordError
from .schedule import Event, Every, Schedule
from .stream import Stream

__all__ = [
    "Corrupt",
    "Cut",
    "Delay",
    "Distribution",
    "Duplicate",
    "Event",
    "Every",
    "Fault",
    "FaultError",
    "Faults",
    "GilbertElliott",
    "LoseEvery",
    "LoseFrames",
    "Loss",
    "Measured",
    "Mtu",
    "NicStruck",
    "Normal",
    "Pareto",
    "Rate",
    "Record",
    "RecordError",
    "Recorder",
    "Reorder",
    "Schedule",
    "Stream",
    "Struck",
    "Table",
    "Truncate",
    "Uniform",
]
