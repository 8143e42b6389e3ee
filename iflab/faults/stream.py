"""Random numbers that depend on a seed, a name and a frame's number, and on nothing else.

A generator that counts on from draw to draw gives frame 17 something else as soon
as one draw more was made for frame 3. Here each frame has numbers of its own: the
BLAKE2b hash (RFC 7693), keyed with the seed, of the stream's name, the number of
the frame and the number of the block. So what happens to a frame does not depend
on when it came, on what other faults, cables or directions do, or on how many
numbers anybody took before.
"""

from __future__ import annotations

import hashlib
import random
import struct
from typing import Any

__all__ = ["Stream"]

_WORDS = struct.Struct("<8Q")
_PLACE = struct.Struct("<QQQ")
_UNIT = 2.0**-53


class Stream(random.Random):
    """A ``random.Random`` whose numbers begin anew, and the same, at each ``seek``.

    ``seed`` is that of the run, ``name`` tells streams of one run apart: streams of
    different names are independent.
    """

    def __init__(self, seed: int, name: str) -> None:
        self._base = hashlib.blake2b(
            name.encode("utf-8", "surrogateescape"),
            key=hashlib.blake2b(str(int(seed)).encode(), digest_size=64).digest(),
        )
        self._number = self._index = self._block = 0
        self._words: list[int] = []
        super().__init__(0)

    def seed(self, a: Any = None, version: int = 2) -> None:
        """Do nothing: the seed is given once, and ``seek`` says where in the stream to be."""
        self.gauss_next = None

    def seek(self, number: int, index: int = 0) -> Stream:
        """Go to the numbers for frame ``number``, of which this is copy ``index``; return the stream itself."""
        self._number, self._index, self._block = number, index, 0
        self._words = []
        self.gauss_next = None
        return self

    def _word(self) -> int:
        if not self._words:
            h = self._base.copy()
            h.update(_PLACE.pack(self._number, self._index, self._block))
            self._block += 1
            self._words = list(_WORDS.unpack(h.digest()))
        return self._words.pop()

    def random(self) -> float:
        """The next number, uniform in [0, 1)."""
        return (self._word() >> 11) * _UNIT

    def getrandbits(self, k: int) -> int:
        """The next ``k`` bits. Raises ``ValueError`` below 0."""
        if k < 0:
            raise ValueError("number of bits must be non-negative")
        if k <= 64:
            return self._word() >> 64 - k
        words = b"".join(self._word().to_bytes(8, "little") for _ in range(0, k, 64))
        return int.from_bytes(words, "little") >> -k % 64

    def getstate(self) -> Any:
        """Not to be had: ``seek`` takes the place of states. Raises ``NotImplementedError``."""
        raise NotImplementedError("a Stream has no state to keep; seek(number) goes to any place")

    def setstate(self, state: Any) -> None:
        """Not to be had, as ``getstate``."""
        raise NotImplementedError("a Stream has no state to set; seek(number) goes to any place")
