"""``iflab stress``: a lab that is changed by many threads at once while traffic and faults run.

::

    result = stress(duration=60, seed=7)
    print(result.text())
    assert result.holds

===============  ==============================================================
``ledger.py``    who got which frame: the account of every NIC and cable
``bed.py``       the lab that is stressed
``churn.py``     what the threads do to it
``traffic.py``   what runs meanwhile
``run.py``       ``stress``, and what it found
===============  ==============================================================

Everything that happens by chance follows from the seed, each thread for itself; how
the threads meet does not.
"""

from __future__ import annotations

from .ledger import Ledger
from .run import Result, stress

__all__ = ["Ledger", "Result", "stress"]
