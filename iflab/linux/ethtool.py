"""What ``ethtool -k`` shows of a device (Documentation/networking/netdev-features.rst)."""

from __future__ import annotations

import contextlib
import errno
from typing import Any, ClassVar

from pyroute2.ethtool.ioctl import EthtoolError, IoctlEthtool

__all__ = ["active_features"]


class _Ethtool(IoctlEthtool):  # type: ignore[misc]
    names: ClassVar[list[str]] = []
    """Of all features; they are the kernel's, whichever device is asked, and take long to read."""

    def get_stringset(self, *args: Any, **kwargs: Any) -> list[str]:
        if not self.names:
            self.names[:] = super().get_stringset(*args, **kwargs)
        return self.names


def active_features(name: str) -> set[str]:
    """Names of the features that a device of the calling thread's namespace has on. Raises ``OSError``."""
    try:
        with contextlib.closing(_Ethtool(name)) as ethtool:
            features = ethtool.get_features()
            return {feature for feature in features.keys() if features.is_active(feature)}  # noqa: SIM118
    except EthtoolError as error:
        raise OSError(errno.ENODEV, f"{name} has no features: {error!r}") from error
