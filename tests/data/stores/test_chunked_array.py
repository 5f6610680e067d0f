"""Ranges of elements from equal chunks: any ranges, any batch, few requests, damage named."""

import zlib

import numcodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.errors import DataError
from scmf.data.stores.chunks import chunked_array, codecs
from scmf.data.stores.chunks.chunked_array import ABSENT, ChunkedArray, ChunkIndex, Places
from scmf.data.stores.files.byte_ranges import LocalFiles


class Chunks(ChunkIndex):
    """Chunks one after the other, so many a file."""

    def __init__(self, sizes, per_file, absent=()):
        sizes = np.array(sizes, np.int64)
        self.files_K = np.arange(len(sizes)) // per_file
        self.starts = np.concatenate(
            [np.cumsum(part) - part for part in np.split(sizes, range(per_file, len(sizes), per_file))]
        )
        self.sizes = sizes.copy()
        self.sizes[list(absent)] = ABSENT

    def file(self, number):
        return f"{number}"

    def files(self):
        return [self.file(number) for number in np.unique(self.files_K).tolist()]

    def places(self, chunks_K):
        return Places(self.files_K[chunks_K], self.starts[chunks_K], self.sizes[chunks_K])


class Counting(LocalFiles):
    """Counts requests and ranges."""

    calls, ranges = 0, 0

    def read_ranges(self, name, ranges, outs):
        self.calls, self.ranges = self.calls + 1, self.ranges + len(ranges)
        super().read_ranges(name, ranges, outs)


def stored(folder, values, chunk_size, *, encode=None, decode=None, per_file=3, absent=(), local=True):
    """Write ``values`` in chunks and open them."""
    n_chunks = -(-len(values) // chunk_size)
    padded = np.zeros(n_chunks * chunk_size, values.dtype)
    padded[: len(values)] = values
    parts = [padded[i * chunk_size : (i + 1) * chunk_size].tobytes() for i in range(n_chunks)]
    parts = [bytes(encode(part)) if encode else part for part in parts]
    folder.mkdir(exist_ok=True)
    for number, at in enumerate(range(0, n_chunks, per_file)):
        (folder / str(number)).write_bytes(b"".join(parts[at : at + per_file]))
    source = Counting(folder)
    source.is_local = local
    index = Chunks([len(part) for part in parts], per_file, absent)
    decoders = (decode,) if decode else ()
    return ChunkedArray(
        source, index, dtype=values.dtype, size=len(values), chunk_size=chunk_size, decoders=decoders, fill_value=9,
        name="X/data",
    )  # fmt: skip


def read(array, ranges):
    ranges = np.array(ranges, np.int64).reshape(-1, 2)
    out = np.full(int((ranges[:, 1] - ranges[:, 0]).sum()), 77, array.dtype)
    array.read_into(ranges, out)
    return out


ENCODINGS = {
    "plain": (None, None),
    "blosc": (numcodecs.Blosc("lz4", 5, 1).encode, codecs.unblosc),
    "zlib": (zlib.compress, codecs.unzlib),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("local", [True, False])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_ranges_are_read(tmp_path_factory, encoding, local, data):
    encode, decode = ENCODINGS[encoding]
    size, chunk_size = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 64))
    values = np.random.default_rng(size).integers(0, 50, size).astype(data.draw(st.sampled_from(["f4", "i8", "u2"])))
    n_chunks = -(-size // chunk_size)
    absent = data.draw(st.sets(st.integers(0, n_chunks - 1), max_size=3))
    array = stored(
        tmp_path_factory.mktemp("chunks"), values, chunk_size, encode=encode, decode=decode, absent=absent, local=local
    )
    array._batch = data.draw(st.sampled_from([1, 300, 1 << 20]))
    for chunk in absent:
        values[chunk * chunk_size : (chunk + 1) * chunk_size] = 9
    ranges = data.draw(st.lists(st.tuples(st.integers(0, size), st.integers(0, size)).map(sorted), max_size=8))
    expected = [values[a:b] for a, b in ranges]
    np.testing.assert_array_equal(read(array, ranges), np.concatenate([values[:0], *expected]))


def test_neighbors_are_one_request_and_each_file_one_call(tmp_path):
    values = np.arange(1200, dtype="i4")
    for encode, decode in ((None, None), (zlib.compress, codecs.unzlib)):
        array = stored(tmp_path / f"{decode}", values, 100, encode=encode, decode=decode, per_file=4)
        read(array, [[0, 50], [50, 390], [420, 430], [650, 660], [900, 1200]])
        assert array._source.calls == 3
        assert array._source.ranges == 4


def test_a_chunk_wanted_by_several_ranges_is_decoded_once(tmp_path):
    decoded = []

    def decode(piece, out):
        decoded.append(len(piece))
        codecs.unzlib(piece, out)

    array = stored(tmp_path, np.arange(300, dtype="i4"), 100, encode=zlib.compress, decode=decode)
    assert read(array, [[10, 12], [250, 251], [14, 15], [0, 3]]).tolist() == [10, 11, 250, 14, 0, 1, 2]
    assert len(decoded) == 2


def test_ranges_outside_are_refused(tmp_path):
    array = stored(tmp_path, np.arange(30, dtype="i4"), 10)
    for ranges in ([[0, 31]], [[-1, 3]]):
        with pytest.raises(IndexError):
            read(array, ranges)


def test_a_plain_chunk_of_the_wrong_size_is_refused(tmp_path):
    array = stored(tmp_path, np.arange(30, dtype="i4"), 10)
    array._index.sizes[1] = 36
    with pytest.raises(DataError, match="chunk 1 of X/data is damaged: 36 bytes in place of 40"):
        read(array, [[0, 30]])


def test_a_missing_file_names_the_array(tmp_path):
    array = stored(tmp_path, np.arange(300, dtype="i4"), 10, encode=zlib.compress, decode=codecs.unzlib)
    (tmp_path / "1").unlink()
    with pytest.raises(DataError, match="a file of the array X/data is missing"):
        read(array, [[0, 300]])


NUMCODECS = {
    codecs.unblosc: numcodecs.Blosc("lz4", 5, 1),
    codecs.unzstd: numcodecs.Zstd(3),
    codecs.unlz4: numcodecs.LZ4(),
    codecs.unzlib: numcodecs.Zlib(3),
    codecs.ungzip: numcodecs.GZip(3),
}


@pytest.mark.parametrize("decode", NUMCODECS, ids=lambda decode: decode.__name__)
@pytest.mark.parametrize("n_bytes", [1, 200, 255, 256, 257, 4000, 70_000])
def test_decoders_give_one_chunk_or_an_error(decode, n_bytes):
    plain = np.random.default_rng(0).integers(0, 5, n_bytes).astype(np.uint8)
    encoded = bytes(NUMCODECS[decode].encode(plain))
    out = np.zeros(n_bytes, np.uint8)
    decode(memoryview(encoded), out)
    np.testing.assert_array_equal(out, plain)
    for wrong, size in (
        (encoded, n_bytes + 1), (encoded, n_bytes - 1), (encoded[: len(encoded) // 2], n_bytes), (b"", n_bytes),
    ):  # fmt: skip
        with pytest.raises(codecs.CorruptChunkError):
            decode(memoryview(wrong), np.zeros(size, np.uint8))


@pytest.mark.parametrize("item_size", [1, 2, 4, 8])
def test_the_byte_shuffle_is_undone(item_size):
    plain = np.random.default_rng(0).integers(0, 256, 40 * item_size).astype(np.uint8)
    shuffled = np.ascontiguousarray(plain.reshape(-1, item_size).T).ravel()
    out = np.zeros_like(plain)
    codecs.unshuffled(codecs.copy, item_size)(memoryview(shuffled.tobytes()), out)
    np.testing.assert_array_equal(out, plain)


def test_scratch_memory_is_shared_by_all_arrays_of_a_thread():
    first = chunked_array.SCRATCH.take("test", 100)
    assert np.shares_memory(first, chunked_array.SCRATCH.take("test", 50))
    assert not np.shares_memory(first, chunked_array.SCRATCH.take("other", 50))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_part_of_a_blosc_chunk_is_that_of_the_whole(data):
    item = data.draw(st.sampled_from([1, 2, 4, 8]))
    n_bytes = item * data.draw(st.integers(1, 60_000))
    compressor = numcodecs.Blosc(
        data.draw(st.sampled_from(["lz4", "zstd", "blosclz", "zlib"])),
        data.draw(st.sampled_from([0, 1, 5, 9])),
        data.draw(st.sampled_from([0, 1, 2])),
        blocksize=data.draw(st.sampled_from([0, 256, 4096, 65536])),
    )
    rng = np.random.default_rng(n_bytes)
    plain = rng.integers(0, data.draw(st.sampled_from([3, 256])), n_bytes).astype(np.uint8)
    encoded = bytes(compressor.encode(plain.view(f"u{item}")))
    start, stop = sorted(
        data.draw(st.tuples(st.integers(0, n_bytes), st.integers(0, n_bytes)).filter(lambda t: t[0] != t[1]))
    )
    out = np.zeros(n_bytes, np.uint8)
    codecs.unblosc_part(memoryview(bytearray(encoded)), start, stop, out)
    np.testing.assert_array_equal(out[start:stop], plain[start:stop])


@pytest.mark.parametrize("at", range(20, 60, 4))
def test_a_blosc_chunk_whose_blocks_begin_elsewhere_is_refused(at):
    plain = np.random.default_rng(0).integers(0, 9, 200_000).astype("u4")
    encoded = bytearray(numcodecs.Blosc("lz4", 5, 1, blocksize=4096).encode(plain))
    encoded[at : at + 4] = (2**31 - 1).to_bytes(4, "little")
    with pytest.raises(codecs.CorruptChunkError):
        block = (at - 16) // 4 * 65536
        codecs.unblosc_part(memoryview(encoded), block, block + 10, np.zeros(800_000, np.uint8))
