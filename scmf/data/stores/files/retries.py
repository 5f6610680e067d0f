"""How often a request over the network is tried again, and how long is waited before.

Lives here: the policy and its counter. Lives elsewhere: which failures are worth another try (obstore_files,
fsspec_files), the requests (remote_files).
"""

from __future__ import annotations

import random
import threading


class Retries:
    """Exponential backoff with jitter, and a count of what was tried again.

    Parameters
    ----------
    tries
        Requests sent at most for one piece of a file, the first one included.
    first_wait_s, longest_wait_s
        Seconds before the second request; it doubles with each, up to the longest. The real wait is drawn between
        half of it and the whole, so that many readers do not come back at once.
    """

    def __init__(self, tries: int = 8, *, first_wait_s: float = 0.25, longest_wait_s: float = 20.0) -> None:
        self.tries = max(1, tries)
        self.first_wait_s = first_wait_s
        self.longest_wait_s = longest_wait_s
        self.count = 0
        """Requests sent again so far."""
        self._lock = threading.Lock()
        self._draw = random.Random()  # of its own: the state of the module belongs to the training run

    def wait(self, attempt: int, stop: threading.Event) -> bool:
        """Count one more request and wait before it; False when ``stop`` was set meanwhile.

        Parameters
        ----------
        attempt
            Requests sent so far for this piece, 1 or more.
        stop
            Set when another piece of the same read failed for good.
        """
        with self._lock:
            self.count += 1
            share = self._draw.uniform(0.5, 1.0)
        return not stop.wait(share * min(self.longest_wait_s, self.first_wait_s * 2 ** (attempt - 1)))
