"""Reports: what happened in a lab, where and why, as one HTML file that opens anywhere.

::

    with Lab() as lab, lab.report("report.html"):
        ...

``recorder.py`` listens while the lab runs, off the way of the frames and in bounded
memory; ``recording.py`` is what it found, as data; ``page.py`` makes the file of it,
with ``ladder.py`` (the sequence diagram), ``plots.py`` and ``topology.py``. The libraries
of the extra ``report`` are imported when a report is written.
"""

from __future__ import annotations

from .recorder import Recorder, ReportError, check_libraries
from .recording import About, Assertion, Recording

__all__ = ["About", "Assertion", "Recorder", "Recording", "ReportError", "check_libraries"]
