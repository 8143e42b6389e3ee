"""``python -m iflab`` is the command ``iflab``."""

from __future__ import annotations

from iflab.cli import main

if __name__ == "__main__":
    main()
