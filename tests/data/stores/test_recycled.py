"""Memory comes back when nobody looks at it, and never before."""

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse as sp

from scmf.data.stores.recycled import _KEPT, _KEPT_BYTES, RecycledMemory

SIZE = 1 << 18


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_is_used_again_once_the_array_is_gone():
    memory = RecycledMemory()
    first = memory.empty(SIZE, np.dtype("f4"))
    at = address(first)
    assert first.flags.writeable
    del first
    assert address(memory.empty(SIZE - 100, np.dtype("i4"))) == at


@pytest.mark.parametrize(
    "hold",
    [
        lambda array: array[10:20],
        lambda array: array.reshape(-1, 2).T[:, 3],
        lambda array: array.view(np.uint8),
        lambda array: memoryview(array),
        lambda array: sp.csr_matrix((array, np.arange(SIZE) % 7, [0, SIZE]), shape=(1, 7), copy=False),
        lambda array: {"deep": [array[:1]]},
    ],
    ids=["slice", "reshaped", "view", "memoryview", "matrix", "nested"],
)
def test_memory_that_anything_refers_to_is_not_used_again(hold):
    memory = RecycledMemory()
    first = memory.empty(SIZE, np.dtype("f4"))
    first[:] = 1
    at, held = address(first), hold(first)
    del first
    gc.collect(0)
    second = memory.empty(SIZE, np.dtype("f4"))
    assert address(second) != at
    del held
    gc.collect(0)
    assert address(memory.empty(SIZE, np.dtype("f4"))) == at


def test_torch_tensors_hold_the_memory_too():
    torch = pytest.importorskip("torch")
    memory = RecycledMemory()
    tensor = torch.from_numpy(memory.empty(SIZE, np.dtype("f4")))
    at = tensor.data_ptr()
    assert address(memory.empty(SIZE, np.dtype("f4"))) != at
    del tensor
    assert address(memory.empty(SIZE, np.dtype("f4"))) == at


def test_what_is_kept_is_bounded():
    memory = RecycledMemory()
    held = [memory.empty(SIZE, np.dtype("f4")) for _ in range(3 * _KEPT)]
    assert len(memory._buffers) == _KEPT
    assert len({address(array) for array in held}) == 3 * _KEPT
    del held
    large = memory.empty(_KEPT_BYTES // 4 * 3 // 4, np.dtype("f4"))
    assert sum(map(len, memory._buffers)) <= _KEPT_BYTES
    assert len(memory._buffers) == 1
    assert len(memory.empty(_KEPT_BYTES, np.dtype("u1"))) == _KEPT_BYTES
    assert len(large)


def test_threads_never_share_memory():
    memory = RecycledMemory()

    def use(seed):
        for turn in range(200):
            array = memory.empty(SIZE + 64 * (turn % 5), np.dtype("i4"))
            array[::97] = seed
            assert (array[::97] == seed).all()
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(use, range(8)))
