"""The conformance language: scripts that drive the interface layer, and what the original did with them.

``README.md`` here defines the language. ``python -m tests.conformance FILE.ops``
runs a script over a recording driver and a recording stack and prints a JSON
object a line, in the form of the ``.jsonl`` files.
"""

from .ops import ScriptError, run_lines

__all__ = ["ScriptError", "run_lines"]
