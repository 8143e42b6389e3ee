"""How long the tests wait, here as everywhere."""

import os

PATIENCE = float(os.environ.get("IFLAB_PATIENCE", "1"))
"""By how much longer than on a usual machine the tests wait, for those that are emulated or very busy."""
