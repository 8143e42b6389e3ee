"""Many writes in one system call: the kernel's native asynchronous I/O (io_submit(2), ``include/uapi/linux/aio_abi.h``).

Each frame that is written to a TAP wakes the program that waits for it. On a
processor that both share the kernel lets that program run at once, for the sake
of one frame: two changes of context a frame. What is written in one call wakes it
once. A TAP takes each frame while the call lasts, so nothing is asynchronous here.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from array import array
from collections.abc import Sequence
from itertools import accumulate

from .syscalls import checked

__all__ = ["MOST", "Batch"]

MOST = 256
"""Writes in one call."""

_STAGE = 512 * 1024
"""Octets in one call."""

_IOCB_CMD_PWRITE = 1

_NUMBERS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2), "riscv64": (0, 1, 4, 2)}
"""The numbers of io_setup, io_destroy, io_getevents and io_submit; these system calls have no names in libc."""

_libc = ctypes.CDLL(None, use_errno=True)
_io_setup, _io_destroy, _io_getevents, _io_submit = (_libc["syscall"] for _ in range(4))
_io_setup.argtypes = (ctypes.c_long, ctypes.c_uint, ctypes.c_void_p)
_io_destroy.argtypes = (ctypes.c_long, ctypes.c_ulong)
_io_getevents.argtypes = (ctypes.c_long, ctypes.c_ulong, *(ctypes.c_long,) * 2, *(ctypes.c_void_p,) * 2)
_io_submit.argtypes = (ctypes.c_long, ctypes.c_ulong, ctypes.c_long, ctypes.c_void_p)


class _Calls:
    """A context of the kernel's, and the memory for ``MOST`` writes."""

    def __init__(self, numbers: tuple[int, int, int, int]) -> None:
        setup, self._destroy, self._getevents, self._submit = numbers
        self._context = ctypes.c_ulong(0)
        checked(_io_setup(setup, MOST, ctypes.byref(self._context)), "io_setup")
        self._fd = -1
        self._stage = bytearray(_STAGE)
        self._octets = memoryview(self._stage)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._stage))
        # struct iocb, 64 octets: [2] what to do and the file descriptor, [3] the address, [4] the octets.
        self._iocbs = array("Q", bytes(64 * MOST))
        self._words = memoryview(self._iocbs)
        first = self._iocbs.buffer_info()[0]
        self._pointers = array("Q", range(first, first + 64 * MOST, 64))
        # struct io_event, 32 octets: [2] the result.
        self._events = array("q", bytes(32 * MOST))
        self._results = memoryview(self._events)[2::4]
        self._arguments = self._pointers.buffer_info()[0], self._events.buffer_info()[0]

    def write(self, fd: int, buffers: Sequence[bytes]) -> list[int] | None:
        lengths = list(map(len, buffers))
        *starts, end = accumulate(lengths, initial=self._base)
        octets, count = end - self._base, len(buffers)
        if (octets > _STAGE or count > MOST) and count > 1:
            half = count // 2
            first = self.write(fd, buffers[:half])
            return first and first + (
                self.write(fd, buffers[half:]) or [_write(fd, b) for b in buffers[half:]]
            )
        self._octets[:octets] = b"".join(buffers)
        words = self._words
        if fd != self._fd:
            words[2::8] = array("Q", [_IOCB_CMD_PWRITE | fd << 32]) * MOST
            self._fd = fd
        words[3 : 8 * count : 8] = array("Q", starts)
        words[4 : 8 * count : 8] = array("Q", lengths)
        pointers, events = self._arguments
        taken = _io_submit(self._submit, self._context, count, pointers)
        if taken <= 0:
            return None
        results: list[int] = []
        while (left := taken - len(results)) > 0:
            try:
                found = checked(
                    _io_getevents(self._getevents, self._context, left, left, events, None), "io_getevents"
                )
            except InterruptedError:
                continue
            results += self._results[:found].tolist()
        return results + [_write(fd, buffer) for buffer in buffers[taken:]]

    def close(self) -> None:
        _io_destroy(self._destroy, self._context)


def _write(fd: int, buffer: bytes) -> int:
    try:
        return os.write(fd, buffer)
    except OSError as error:
        return -(error.errno or errno.EIO)


class Batch:
    """Many writes in one system call. One thread at a time uses it; its memory, some 550 KiB, is taken when first used."""

    def __init__(self) -> None:
        self._calls: _Calls | None = None
        self._refused = platform.machine() not in _NUMBERS or sys.maxsize < 1 << 32  # which has other numbers

    def write(self, fd: int, buffers: Sequence[bytes]) -> list[int] | None:
        """Write each of ``buffers`` by itself to ``fd``, a TAP's, in their order.

        Returns what ``write(2)`` would for each: its octets, or a negative errno. None,
        and nothing was written, where that cannot be done: on a kernel that has no
        native asynchronous I/O or refuses it. More than 256 buffers, or 512 KiB, take
        more than one call.
        """
        if self._refused or fd < 0:
            return None
        if self._calls is None:
            try:
                self._calls = _Calls(_NUMBERS[platform.machine()])
            except OSError:
                self._refused = True
                return None
        return self._calls.write(fd, buffers)

    def close(self) -> None:
        """Give all back; nothing is written any more. Waits some 30 ms for the kernel if it was used."""
        calls, self._calls, self._refused = self._calls, None, True
        if calls is not None:
            calls.close()
