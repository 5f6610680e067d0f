"""The compiled half of the t-digests: sort the waiting values of a gene, merge centroids, read quantiles.

Lives here: kernels over the arrays of `scmf.data.preprocess.tdigest.GeneDigests`; each releases the GIL. `add_rows`
takes a range
of genes, so that threads share the genes, not the cells, and the result does not depend on their number.

Legend: G genes, K values a buffer holds, C most centroids of a digest.
"""

from __future__ import annotations

import numba
import numpy as np

_BUCKETS = 2048


@numba.njit(nogil=True, cache=True)
def _sort(values: np.ndarray, n: int, out: np.ndarray, places: np.ndarray) -> None:
    """Sort ``values[:n]`` (not negative) into ``out``: buckets by their bits, then insertion within reach."""
    bits = values.view(np.int64)
    low, high = bits[0], bits[0]
    for i in range(1, n):
        low, high = min(low, bits[i]), max(high, bits[i])
    shift = 0
    while (high - low) >> shift >= _BUCKETS:
        shift += 1
    places[:] = 0
    for i in range(n):
        places[((bits[i] - low) >> shift) + 1] += 1
    for bucket in range(_BUCKETS):
        places[bucket + 1] += places[bucket]
    for i in range(n):
        bucket = (bits[i] - low) >> shift
        out[places[bucket]] = values[i]
        places[bucket] += 1
    for i in range(1, n):
        value, j = out[i], i
        while j > 0 and out[j - 1] > value:
            out[j] = out[j - 1]
            j -= 1
        out[j] = value


@numba.njit(nogil=True, cache=True)
def _merge(
    a_mean: np.ndarray, a_weight: np.ndarray, n_a: int,
    b_mean: np.ndarray, b_weight: np.ndarray, n_b: int,
    total: float, cos_step: float, sin_step: float, mean: np.ndarray, weight: np.ndarray
) -> int:  # fmt: skip
    """Join two sorted lists of centroids into ``mean``, ``weight``; returns how many they are.

    A centroid that begins at the share q ends at ``sin(asin(2q - 1) + pi / compression)``, by the rule for sums.
    """
    i, j, n = 0, 0, 0
    before, in_hand, sum_in_hand = 0.0, 0.0, 0.0
    limit = -1.0
    while i < n_a or j < n_b:
        if j >= n_b or (i < n_a and a_mean[i] <= b_mean[j]):
            value, units = a_mean[i], a_weight[i]
            i += 1
        else:
            value, units = b_mean[j], b_weight[j]
            j += 1
        if before + in_hand + units <= limit or n == len(mean):
            in_hand += units
            sum_in_hand += value * units
            continue
        if in_hand > 0:
            mean[n - 1], weight[n - 1] = sum_in_hand / in_hand, in_hand
            before += in_hand
        n += 1
        in_hand, sum_in_hand = units, value * units
        sine = 2 * before / total - 1
        if sine >= cos_step:
            limit = total
        else:
            limit = total * (sine * cos_step + np.sqrt(max(0.0, 1 - sine * sine)) * sin_step + 1) / 2
    if in_hand > 0:
        mean[n - 1], weight[n - 1] = sum_in_hand / in_hand, in_hand
    return n


@numba.njit(nogil=True, cache=True)
def _flush(
    g: int, buffer_GK: np.ndarray, waiting_G: np.ndarray, mean_GC: np.ndarray, weight_GC: np.ndarray,
    size_G: np.ndarray, ones: np.ndarray, sums: tuple[float, float], scratch: tuple[np.ndarray, ...]
) -> None:  # fmt: skip
    """Bring the waiting values of gene ``g`` into its centroids."""
    if waiting_G[g] == 0:
        return
    ordered, places, new_mean, new_weight = scratch
    _sort(buffer_GK[g], waiting_G[g], ordered, places)
    total = float(waiting_G[g]) + weight_GC[g, : size_G[g]].sum()
    n = _merge(
        mean_GC[g], weight_GC[g], size_G[g], ordered, ones, waiting_G[g], total, sums[0], sums[1], new_mean, new_weight
    )
    mean_GC[g, :n] = new_mean[:n]
    weight_GC[g, :n] = new_weight[:n]
    size_G[g] = n
    waiting_G[g] = 0


@numba.njit(nogil=True, cache=True)
def _scratch(k: int, c: int) -> tuple[np.ndarray, ...]:
    return np.empty(k), np.empty(_BUCKETS + 1, np.int32), np.empty(c), np.empty(c)


@numba.njit(nogil=True, cache=True)
def add_rows(
    indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, gene_of: np.ndarray, total_B: np.ndarray, target: float,
    first: int, last: int, counts_G: np.ndarray, ones: np.ndarray, sums: tuple[float, float],
    buffer_GK: np.ndarray, waiting_G: np.ndarray, mean_GC: np.ndarray, weight_GC: np.ndarray, size_G: np.ndarray
) -> None:  # fmt: skip
    """Add ``count / total * target`` of every non-zero count whose gene is in ``[first, last)``.

    Parameters
    ----------
    indptr, indices, data
        Cells as CSR.
    gene_of
        Gene of each column, -1 for none.
    total_B
        Total counts of the cells, float64; cells with 0 are left out.
    target
        Sum to which a cell is scaled.
    first, last
        Range of genes.
    counts_G
        Sum of the raw counts of the gene, added to.
    ones, sums, buffer_GK, waiting_G, mean_GC, weight_GC, size_G
        ``GeneDigests.arrays``.
    """
    room = np.uint64(buffer_GK.shape[1])
    waiting = buffer_GK.reshape(-1)  # unsigned places: numba then leaves out what negative ones would need
    scratch = _scratch(buffer_GK.shape[1], mean_GC.shape[1])
    for cell in range(len(indptr) - 1):
        total = total_B[cell]
        if total <= 0:
            continue
        for at in range(np.uint64(indptr[cell]), np.uint64(indptr[cell + 1])):
            gene = gene_of[np.uint64(indices[at])]
            if gene < first or gene >= last or data[at] == 0:
                continue
            g = np.uint64(gene)
            count = np.float64(data[at])
            counts_G[g] += count
            n = np.uint64(waiting_G[g])
            waiting[g * room + n] = count / total * target
            n += np.uint64(1)
            waiting_G[g] = n
            if n == room:
                _flush(gene, buffer_GK, waiting_G, mean_GC, weight_GC, size_G, ones, sums, scratch)


@numba.njit(nogil=True, cache=True)
def add_values(
    values: np.ndarray, g: int, ones: np.ndarray, sums: tuple[float, float], buffer_GK: np.ndarray,
    waiting_G: np.ndarray, mean_GC: np.ndarray, weight_GC: np.ndarray, size_G: np.ndarray
) -> None:  # fmt: skip
    """Add values of gene ``g``."""
    scratch = _scratch(buffer_GK.shape[1], mean_GC.shape[1])
    for value in values:
        buffer_GK[g, waiting_G[g]] = value
        waiting_G[g] += 1
        if waiting_G[g] == buffer_GK.shape[1]:
            _flush(g, buffer_GK, waiting_G, mean_GC, weight_GC, size_G, ones, sums, scratch)


@numba.njit(nogil=True, cache=True)
def merge_genes(
    gene_of: np.ndarray, ones: np.ndarray, sums: tuple[float, float],
    buffer_GK: np.ndarray, waiting_G: np.ndarray, mean_GC: np.ndarray, weight_GC: np.ndarray, size_G: np.ndarray,
    their_buffer: np.ndarray, their_waiting: np.ndarray, their_mean: np.ndarray, their_weight: np.ndarray,
    their_size: np.ndarray
) -> None:  # fmt: skip
    """Add digest i of the others to ours of gene ``gene_of[i]``; theirs stay as they are."""
    room, c = buffer_GK.shape[1], mean_GC.shape[1]
    scratch = _scratch(room, c)
    mean, weight = np.empty(c), np.empty(c)
    for theirs in range(len(gene_of)):
        g = gene_of[theirs]
        for i in range(their_waiting[theirs]):
            buffer_GK[g, waiting_G[g]] = their_buffer[theirs, i]
            waiting_G[g] += 1
            if waiting_G[g] == room:
                _flush(g, buffer_GK, waiting_G, mean_GC, weight_GC, size_G, ones, sums, scratch)
        n_theirs = their_size[theirs]
        if n_theirs == 0:
            continue
        total = weight_GC[g, : size_G[g]].sum() + their_weight[theirs, :n_theirs].sum()
        n = _merge(
            mean_GC[g], weight_GC[g], size_G[g], their_mean[theirs], their_weight[theirs], n_theirs,
            total, sums[0], sums[1], mean, weight,
        )  # fmt: skip
        mean_GC[g, :n] = mean[:n]
        weight_GC[g, :n] = weight[:n]
        size_G[g] = n


@numba.njit(nogil=True, cache=True)
def quantiles(
    q: float, ones: np.ndarray, sums: tuple[float, float], buffer_GK: np.ndarray, waiting_G: np.ndarray,
    mean_GC: np.ndarray, weight_GC: np.ndarray, size_G: np.ndarray, out: np.ndarray
) -> None:  # fmt: skip
    """Interpolate between the middles of neighboring centroids, in a copy that has taken up the waiting values."""
    k, c = buffer_GK.shape[1], mean_GC.shape[1]
    ordered, places, new_mean, new_weight = _scratch(k, c)
    for g in range(len(out)):
        n, waiting = size_G[g], waiting_G[g]
        if n + waiting == 0:
            out[g] = np.nan
            continue
        mean, weight = mean_GC[g], weight_GC[g]
        if waiting:
            _sort(buffer_GK[g], waiting, ordered, places)
            if n == 0:
                mean, weight, n = ordered, ones, waiting
            else:
                total = weight[:n].sum() + waiting
                n = _merge(mean, weight, n, ordered, ones, waiting, total, sums[0], sums[1], new_mean, new_weight)
                mean, weight = new_mean, new_weight
        place, before, at = q * weight[:n].sum(), 0.0, 0
        while at < n and before + weight[at] / 2 < place:
            before += weight[at]
            at += 1
        if at == 0 or at == n:
            out[g] = mean[0] if at == 0 else mean[n - 1]
            continue
        left, right = before - weight[at - 1] / 2, before + weight[at] / 2
        share = (place - left) / (right - left)
        if share == 0.5:
            out[g] = (mean[at - 1] + mean[at]) / 2
        elif share == 1.0:
            out[g] = mean[at]
        else:
            out[g] = mean[at - 1] + (mean[at] - mean[at - 1]) * share
