"""Memory of blocks that is used again when nobody holds the block any more.

Lives here: arrays whose memory comes back. Asking the system for fresh memory, page by page, costs about as much as
copying the counts into it. Lives elsewhere: the blocks (store).
"""

from __future__ import annotations

import threading

import numpy as np

_KEPT = 16
"""Buffers kept at most."""
_KEPT_BYTES = 512 << 20
"""Bytes kept at most, in use or not; beyond, memory is fresh and goes back to the system."""
_SMALLEST = 1 << 18
"""Smaller arrays are left to numpy, whose allocator keeps them anyway."""


class RecycledMemory:
    """Gives arrays, and takes their memory back by itself once no array or view refers to it.

    A `bytearray` refuses to change its length while an array looks at its memory: so it is known which are free.
    """

    def __init__(self) -> None:
        self._buffers: list[bytearray] = []
        self._lock = threading.Lock()

    def empty(self, size: int, dtype: np.dtype) -> np.ndarray:
        """An uninitialized array of ``size`` elements, writable; from any thread."""
        n_bytes = size * dtype.itemsize
        if n_bytes < _SMALLEST:
            return np.empty(size, dtype)
        with self._lock:
            free = [buffer for buffer in self._buffers if _is_free(buffer)]
            fitting = [buffer for buffer in free if n_bytes <= len(buffer) <= 4 * n_bytes]
            if fitting:
                return np.frombuffer(min(fitting, key=len), dtype, size)
            if not self._has_room(n_bytes):  # give up those of other sizes
                unused = {id(buffer) for buffer in free}
                self._buffers = [buffer for buffer in self._buffers if id(buffer) not in unused]
            if not self._has_room(n_bytes):
                return np.empty(size, dtype)
            buffer = bytearray(n_bytes + n_bytes // 8)
            self._buffers.append(buffer)
            return np.frombuffer(buffer, dtype, size)

    def _has_room(self, n_bytes: int) -> bool:
        return len(self._buffers) < _KEPT and sum(map(len, self._buffers)) + n_bytes * 9 // 8 <= _KEPT_BYTES


def _is_free(buffer: bytearray) -> bool:
    """Whether no array refers to the memory of ``buffer``."""
    try:
        last = buffer.pop()
    except BufferError:
        return False
    buffer.append(last)
    return True


BLOCKS = RecycledMemory()
"""One for all stores of a process."""
