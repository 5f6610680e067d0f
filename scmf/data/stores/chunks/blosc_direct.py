"""Many blosc chunks in one compiled call: no Python and no change of the interpreter's lock between them.

The functions are those of the C library inside numcodecs (``blosc_decompress_ctx`` and ``blosc_getitem``), found by
their names in its module. Where a build does not show them, `find` says None and chunks are decoded one by one.

Lives here: finding the functions, the loop. Lives elsewhere: which chunks (chunked_array), other codecs (codecs).

Legend: P pieces, each a range of one chunk.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numcodecs import blosc

_HEADER = 16
OK, BAD_HEADER, BAD_CHUNK = 0, 1, 2


class Functions(NamedTuple):
    """Addresses of C functions.

    Parameters
    ----------
    decompress
        ``int blosc_decompress_ctx(const void *src, void *dest, size_t destsize, int numinternalthreads)``.
    getitem
        ``int blosc_getitem(const void *src, int start, int nitems, void *dest)``.
    """

    decompress: int
    getitem: int


@cache
def find() -> Functions | None:
    """The functions, or None where this build of numcodecs does not show them."""
    library = ctypes.CDLL(blosc.__file__)
    try:
        found = [
            ctypes.cast(getattr(library, name), ctypes.c_void_p).value
            for name in ("blosc_decompress_ctx", "blosc_getitem")
        ]
    except AttributeError:
        return None
    return Functions(*(int(address or 0) for address in found))


@intrinsic
def _decompress(typingctx: Any, address: Any, source: Any, target: Any, size: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, size_t, number = cgutils.voidptr_t, ir.IntType(64), ir.IntType(32)
        kind = ir.FunctionType(number, [pointer, pointer, size_t, number])
        at, source, target, size = arguments
        function = builder.inttoptr(at, kind.as_pointer())
        memory = [builder.inttoptr(source, pointer), builder.inttoptr(target, pointer)]
        return builder.call(function, [*memory, size, ir.Constant(number, 1)])

    return types.int32(types.int64, types.int64, types.int64, types.int64), generate


@intrinsic
def _getitem(typingctx: Any, address: Any, source: Any, start: Any, size: Any, target: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, number = cgutils.voidptr_t, ir.IntType(32)
        kind = ir.FunctionType(number, [pointer, number, number, pointer])
        at, source, start, size, target = arguments
        function = builder.inttoptr(at, kind.as_pointer())
        start, size = builder.trunc(start, number), builder.trunc(size, number)
        return builder.call(
            function, [builder.inttoptr(source, pointer), start, size, builder.inttoptr(target, pointer)]
        )

    return types.int32(types.int64, types.int64, types.int64, types.int64, types.int64), generate


@numba.njit(cache=True, nogil=True)
def decode_pieces(
    decompress: Any, getitem: Any, stored: Any, at_P: Any, sizes_P: Any, starts_P: Any, lengths_P: Any, outs_P: Any,
    chunk: int, item: int, out: Any
) -> tuple[int, int]:  # fmt: skip
    """Decode ranges of blosc chunks into their places.

    Parameters
    ----------
    decompress, getitem
        Addresses, see `Functions`, int64.
    stored
        Stored bytes of some chunks, uint8.
    at_P, sizes_P
        Where the chunk of each piece begins in ``stored``, and its bytes, int64 (P,).
    starts_P, lengths_P, outs_P
        First element within the chunk, elements, first element within ``out``, int64 (P,).
    chunk, item
        Elements of a chunk, bytes of an element.
    out
        What is filled, uint8.

    Returns
    -------
    code, piece
        `OK`, or what is wrong and with which piece.
    """
    for p in range(at_P.size):
        at, size = at_P[p], sizes_P[p]
        if size < _HEADER:
            return BAD_HEADER, p
        head = stored[at : at + _HEADER].view(np.int32)
        if stored[at + 3] != item or head[1] != chunk * item or head[3] != size:
            return BAD_HEADER, p
        source, target = stored.ctypes.data + at, out.ctypes.data + outs_P[p] * item
        if lengths_P[p] == chunk:
            got = _decompress(decompress, source, target, chunk * item)
        else:
            got = _getitem(getitem, source, starts_P[p], lengths_P[p], target)
        if got != lengths_P[p] * item:
            return BAD_CHUNK, p
    return OK, -1
