"""The real clock."""

from __future__ import annotations

import time


class SystemClock:
    """Deadlines by the monotonic clock; UTC only for the ledger and logs."""

    monotonic = staticmethod(time.monotonic)
    utc = staticmethod(time.time)
