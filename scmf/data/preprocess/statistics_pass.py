"""One pass over a corpus that gathers its statistics, with a state on disk from which a killed pass goes on.

Lives here: `corpus_statistics`, which column counts as which gene, exact medians.
Lives elsewhere: the state and merging several (statistics_state), the result (statistics), the digests (tdigest) and
the kernel that fills them (tdigest_kernel).

Memory: the digests (about 8 kB a gene that is seen at all), a few blocks, one byte a cell where cells are left out;
nothing grows with the cells.
"""

from __future__ import annotations

_EXACT_VALUES = 1 << 27
"""Most non-zero values of ``exact=True``: 12 bytes each while they are gathered, about as much again to sort them."""
