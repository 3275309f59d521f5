"""Under which circumstances a benchmark ran; part of every report."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any


class Circumstances:
    """Begins to measure when it is made."""

    def __init__(self, workers: int, packages: Sequence[str]) -> None:
        self._workers, self._packages = workers, packages
        self._start, self._load = time.perf_counter(), os.getloadavg()

    def facts(self) -> dict[str, Any]:
        """Return wall time, processes, load of the machine before and after, software."""
        return {
            "wall_s": round(time.perf_counter() - self._start, 1),
            "workers": self._workers,
            "cores": os.cpu_count(),
            "load_before": self._load,
            "load_after": os.getloadavg(),
            "python": platform.python_version(),
            "packages": {name: version(name) for name in self._packages},
        }

    def __str__(self) -> str:
        return f"load before {self._load[0]:.1f}, after {os.getloadavg()[0]:.1f}"
