"""TAP devices: an Ethernet NIC of the kernel whose cable is a file descriptor.

What the kernel sends on the device is read from the fd, what is written to the
fd the kernel receives: whole Ethernet frames, each behind ``VNET_HDR_LEN``
octets of ``struct virtio_net_hdr``. A TAP is not persistent: it goes with its
fd. See Documentation/networking/tuntap.rst of the kernel.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
from typing import ClassVar

from .errors import KernelRefused, Missing, check_name
from .limits import too_many_files
from .netns import Netns

__all__ = [
    "TUN_F_CSUM",
    "TUN_F_TSO4",
    "TUN_F_TSO6",
    "TUN_F_TSO_ECN",
    "TUN_F_USO4",
    "TUN_F_USO6",
    "VNET_HDR_LEN",
    "Tap",
    "tun_path",
]

VNET_HDR_LEN = 10

TUN_F_CSUM = 0x01
TUN_F_TSO4 = 0x02
TUN_F_TSO6 = 0x04
TUN_F_TSO_ECN = 0x08
TUN_F_USO4 = 0x20
TUN_F_USO6 = 0x40

_IFF_TAP = 0x0002
_IFF_NO_CARRIER = 0x0040  # Linux 6.1; older kernels pass it over
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_IFF_TUN_EXCL = 0x8000  # never somebody else's persistent device of that name
_TUNSETIFF = 0x400454CA
_TUNGETFEATURES = 0x800454CF
_TUNSETOFFLOAD = 0x400454D0
_TUNSETSNDBUF = 0x400454D4
_TUNSETCARRIER = 0x400454E2
_TUNGETIFF = 0x800454D2
_TUNGETDEVNETNS = 0x54E3
_SIOCGIFINDEX = 0x8933
_SIOCSIFHWADDR = 0x8924
_ARPHRD_ETHER = 1


_FEATURES = {
    TUN_F_CSUM: "tx-checksum-ip-generic",
    TUN_F_TSO4: "tx-tcp-segmentation",
    TUN_F_TSO6: "tx-tcp6-segmentation",
}
"""What the kernel calls them where everybody may switch them (net/ethtool/common.c)."""


NOT_TUN = "{} is not the TUN clone device; let IFLAB_TUN name one (character device 10, 200), or unset it"


def tun_path() -> str:
    """The clone device: ``/dev/net/tun``, or what the environment variable ``IFLAB_TUN`` names."""
    return os.environ.get("IFLAB_TUN", "/dev/net/tun")


def open_tun() -> int:
    """Open the clone device. Raises ``Missing`` with the remedy."""
    try:
        return os.open(tun_path(), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Missing(no_tun(error)) from error


def is_tun(fd: int) -> bool:
    """True when ``fd`` is the clone device's."""
    try:
        fcntl.ioctl(fd, _TUNGETFEATURES, bytearray(4))
    except OSError:
        return False
    return True


class Tap:
    """One TAP device and its file descriptor, which is non-blocking."""

    _born_without_carrier: ClassVar[bool | None] = None
    """This kernel makes them so; asked of the first."""

    def __init__(self, fd: int, name: str, ifindex: int) -> None:
        self.fd = fd
        self.name = name
        self.ifindex = ifindex

    @classmethod
    def create(cls, netns: Netns, name: str, *, mac: bytes | None = None) -> Tap:
        """Make the device ``name`` inside ``netns``, down and without carrier.

        Raises ``InvalidName``; ``Missing`` without ``/dev/net/tun``; ``KernelRefused``
        with EEXIST when the name is taken there, and as the kernel says.
        """
        check_name(name)
        with netns.entered():  # the device is born where its fd is opened
            fd = open_tun()
            try:
                flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | _IFF_NO_CARRIER | _IFF_TUN_EXCL
                try:
                    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", os.fsencode(name), flags))
                except OSError as error:
                    if error.errno == errno.ENOTTY:
                        raise Missing(NOT_TUN.format(tun_path())) from error
                    taken = name in (entry for _, entry in socket.if_nameindex())
                    code = errno.EEXIST if taken else error.errno or 0
                    raise KernelRefused(
                        code,
                        f"a TAP {name!r} in {netns.name or 'this namespace'}",
                        "the name is taken" * taken,
                    ) from error
                tap = cls(fd, name, _index_of(name))
                if cls._born_without_carrier is None:
                    cls._born_without_carrier = tap.may_be_born_without_carrier()
                if not cls._born_without_carrier:
                    tap.set_carrier(False)
                if mac is not None:
                    tap.set_mac(mac)
            except BaseException:
                os.close(fd)
                raise
        return tap

    def fileno(self) -> int:
        """The file descriptor."""
        return self.fd

    def _ioctl(self, request: int, argument: int | bytes | bytearray, what: str) -> None:
        try:
            fcntl.ioctl(self.fd, request, argument)
        except OSError as error:
            raise KernelRefused(error.errno or 0, f"{self.name}: {what}") from error

    def set_carrier(self, up: bool) -> None:
        """Let the kernel see a link or none. Raises ``KernelRefused``."""
        self._ioctl(_TUNSETCARRIER, struct.pack("i", up), "carrier " + ("on" if up else "off"))

    def set_mac(self, mac: bytes) -> None:
        """Give the device the MAC of 6 octets. Raises ``KernelRefused`` (EADDRNOTAVAIL for a group address)."""
        request = struct.pack("16sH6s16x", b"", _ARPHRD_ETHER, mac)
        self._ioctl(_SIOCSIFHWADDR, request, f"MAC {mac.hex(':')}")

    def set_offload(self, flags: int) -> None:
        """Say which unfinished work (``TUN_F_*``) may come out of the fd; 0: none. Raises ``KernelRefused``.

        UDP segmentation is left out where the kernel has none (before Linux 6.2).
        """
        try:
            self._ioctl(_TUNSETOFFLOAD, flags, f"offload {flags:#x}")
        except KernelRefused as error:
            if error.errno != errno.EINVAL or not flags & (TUN_F_USO4 | TUN_F_USO6):
                raise
            self.set_offload(flags & ~(TUN_F_USO4 | TUN_F_USO6))

    def offers(self, flags: int) -> bool:
        """True when the kernel knows all of these offloads (``TUN_F_*``); they are switched on then."""
        try:
            self._ioctl(_TUNSETOFFLOAD, flags, f"offload {flags:#x}")
        except KernelRefused as error:
            if error.errno != errno.EINVAL:
                raise
            return False
        return True

    def asked_for(self, netns: Netns) -> int:
        """Which unfinished work the kernel leaves to the fd: of what ``set_offload`` allows the host may want less.

        ``TUN_F_CSUM``, ``TUN_F_TSO4`` and ``TUN_F_TSO6``, as ``ethtool -k`` shows them. Raises ``OSError``.
        """
        from .ethtool import active_features

        with netns.entered():
            active = active_features(self.name)
        return sum(flag for flag, name in _FEATURES.items() if name in active)

    def may_be_born_without_carrier(self) -> bool:
        """True when this kernel knows ``IFF_NO_CARRIER``: a device has no link from its first moment on."""
        features = bytearray(4)
        self._ioctl(_TUNGETFEATURES, features, "features")
        return bool(struct.unpack("I", features)[0] & _IFF_NO_CARRIER)

    def netns_inode(self) -> int | None:
        """The inode of the namespace that the device is in now, wherever it was moved; None when it was deleted."""
        try:
            fd = fcntl.ioctl(self.fd, _TUNGETDEVNETNS)
        except OSError:
            return None
        try:
            return os.fstat(fd).st_ino
        finally:
            os.close(fd)

    def _present_name(self) -> str:
        found = bytearray(40)
        self._ioctl(_TUNGETIFF, found, "name")
        return os.fsdecode(bytes(found[:16]).split(b"\0", 1)[0])

    def look_up(self, netns: Netns) -> None:
        """Find name and index anew, after a move to ``netns``: somebody may have given it another name meanwhile.

        Raises ``KernelRefused`` (ENODEV) when it is not there.
        """
        with netns.entered():
            for _ in range(10):
                name = self._present_name()
                with contextlib.suppress(OSError):
                    index = _index_of(name)
                    # Another device may have that name here when this one has moved on.
                    if self.netns_inode() == netns.inode and self._present_name() == name:
                        self.ifindex = index
                        return
        raise KernelRefused(errno.ENODEV, f"{self.name} in {netns.name or 'this namespace'}")

    def set_sndbuf(self, octets: int) -> None:
        """Bound what writing to the fd may queue in the kernel."""
        self._ioctl(_TUNSETSNDBUF, struct.pack("i", octets), f"send buffer of {octets}")

    def close(self) -> None:
        """Close the fd; the device goes with it. Waits some 20 ms for the kernel."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def __repr__(self) -> str:
        return f"<Tap {self.name} ifindex={self.ifindex}>"


def _index_of(name: str) -> int:
    """The index of a device of this thread's namespace. Raises ``OSError`` with its errno, unlike Python's own."""
    with contextlib.suppress(OSError):
        return socket.if_nametoindex(name)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        answer = fcntl.ioctl(sock, _SIOCGIFINDEX, struct.pack("16s24x", os.fsencode(name)))
    return int(struct.unpack_from("i", answer, 16)[0])


def no_tun(error: OSError) -> str:
    """Why the clone device cannot be opened; and, after a semicolon, the remedy."""
    path = tun_path()
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return f"{path} is not there; load the module with 'modprobe tun' as root"
    if os.path.exists(path) and not stat.S_ISCHR(os.stat(path).st_mode):
        return NOT_TUN.format(path)
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{path} may not be opened by this user; as root: 'chmod 666 {path}', or add the user to its group"
    if (limit := too_many_files(error)) is not None:
        return str(limit)
    return f"{path} cannot be opened: {error.strerror}"
