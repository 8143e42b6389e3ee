"""``python -m tests.conformance FILE.ops``: run a script, print the lines."""

import json
import logging
import sys

from . import ScriptError, run_lines


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python -m tests.conformance FILE.ops", file=sys.stderr)
        return 2
    logging.getLogger("iflab").addHandler(logging.NullHandler())  # what is logged is in the trace
    try:
        with open(sys.argv[1], encoding="utf-8") as script:
            for row in run_lines(script):
                print(json.dumps(row))
    except ScriptError as error:
        print(f"{sys.argv[1]}:{error.line}: {error}", file=sys.stderr)
        return 1
    except (OSError, UnicodeDecodeError) as error:
        print(f"{sys.argv[1]}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
