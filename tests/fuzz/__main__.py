"""Feed many inputs and stop at the first that does harm::

    python -m tests.fuzz --inputs 1000000 --seed 1

Each input goes to two of the targets in turn, one in 20 also to a slow one. An input
that takes more than ten seconds is a hang.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time

from .beds import Beds, rounds
from .inputs import corpus, mutated

PATIENCE = 10


def _hang(number: int, frame: object) -> None:
    raise AssertionError(f"an input took more than {PATIENCE} s")


def main() -> int:
    """Feed; 1 when an input did harm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    signal.signal(signal.SIGALRM, _hang)
    began = told = time.monotonic()
    octets = 0
    with Beds() as beds:
        for m in corpus():
            beds.feed(m)
        for number, names in enumerate(rounds(options.inputs), 1):
            m = mutated(rng)
            octets += len(m)
            signal.alarm(PATIENCE)
            try:
                beds.feed(m, names)
            except AssertionError as error:
                print(f"input {number} of seed {options.seed}: {error}", file=sys.stderr)
                return 1
            if time.monotonic() > told + 30:
                told = time.monotonic()
                print(f"{number} inputs, {number / (told - began):.0f} a second", flush=True)
        signal.alarm(0)
    seconds = time.monotonic() - began
    print(
        f"{options.inputs} inputs of {octets} octets in {seconds:.0f} s: no harm done  (--seed {options.seed})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
