"""``python -m tests.conformance FILE.ops``: run a script, print the lines."""

import json
import sys

from . import run_lines


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python -m tests.conformance FILE.ops", file=sys.stderr)
        return 2
    with open(sys.argv[1]) as script:
        for row in run_lines(script):
            print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
