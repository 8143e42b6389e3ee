"""Feed many inputs and stop at the first that does harm::

    python -m tests.fuzz --inputs 1000000 --seed 1

Each input goes to two of the targets in turn, one in 20 also to a slow one. An input
that takes more than ten seconds of the processor's time, or minutes, is a hang.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time

from .beds import Beds, rounds
from .inputs import corpus, mutated

BUSY, WAITING = 10, 300
"""Seconds that an input may work, and take in all on a machine that does other things besides."""


def _hang(number: int, frame: object) -> None:
    what = f"{BUSY} s of work" if number == signal.SIGPROF else f"{WAITING} s"
    raise AssertionError(f"an input took more than {what}")


def main() -> int:
    """Feed; 1 when an input did harm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, _hang)
    began = told = time.monotonic()
    octets = 0
    with Beds() as beds:
        for m in corpus():
            beds.feed(m)
        for number, names in enumerate(rounds(options.inputs), 1):
            m = mutated(rng)
            octets += len(m)
            signal.alarm(WAITING)
            signal.setitimer(signal.ITIMER_PROF, BUSY)
            try:
                beds.feed(m, names)
            except AssertionError as error:
                print(f"input {number} of seed {options.seed}: {error}", file=sys.stderr)
                return 1
            if time.monotonic() > told + 30:
                told = time.monotonic()
                print(f"{number} inputs, {number / (told - began):.0f} a second", flush=True)
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
    seconds = time.monotonic() - began
    print(
        f"{options.inputs} inputs of {octets} octets in {seconds:.0f} s: no harm done  (--seed {options.seed})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
