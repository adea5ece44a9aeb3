"""The heat equation on a square, on several ranks: each has a block of the grid and swaps edges with its neighbours.

The start is one hump, sin(pi x) sin(pi y), with edges kept at zero. It keeps its shape and shrinks by
exp(-2 pi^2 k t), so every run can be compared with the exact answer.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

#: of the largest step that is stable
SAFETY = 0.9


def solve(cells: int, conductivity: float, seconds: float, comm: Any) -> dict[str, Any]:
    """Step a grid of ``cells`` by ``cells`` inner points to a time; its peak, and its largest error."""
    from mpi4py import MPI

    cart = comm.Create_cart(MPI.Compute_dims(comm.Get_size(), 2))
    rows, columns = (_part(cells, size, at) for size, at in zip(cart.Get_topo()[0], cart.Get_topo()[2], strict=True))
    h = 1.0 / (cells + 1)
    x, y = (np.arange(lo, hi + 2) * h for lo, hi in (rows, columns))
    shape = np.sin(math.pi * x)[:, None] * np.sin(math.pi * y)[None, :]
    grid = shape.copy()
    steps = math.ceil(seconds * 4 * conductivity / (SAFETY * h * h))
    factor = conductivity * seconds / steps / (h * h)
    for _ in range(steps):
        _swap_edges(cart, grid, MPI)
        inner = grid[1:-1, 1:-1]
        inner += factor * (grid[:-2, 1:-1] + grid[2:, 1:-1] + grid[1:-1, :-2] + grid[1:-1, 2:] - 4 * inner)
    exact = math.exp(-2 * math.pi**2 * conductivity * seconds) * shape[1:-1, 1:-1]
    error = cart.allreduce(float(np.abs(grid[1:-1, 1:-1] - exact).max()), MPI.MAX)
    peak = cart.allreduce(float(grid[1:-1, 1:-1].max()), MPI.MAX)
    ranks = cart.Get_size()
    cart.Free()
    return {
        "cells": cells, "conductivity": conductivity, "seconds": seconds, "steps": steps, "ranks": ranks,
        "peak": peak, "error": error,
    }  # fmt: skip


def _part(cells: int, parts: int, at: int) -> tuple[int, int]:
    """Where a rank's block begins and ends, in inner points."""
    return cells * at // parts, cells * (at + 1) // parts


def _swap_edges(cart: Any, grid: Any, MPI: Any) -> None:
    """The outermost lines of each block are its neighbours' edges; at the border of the square they stay zero."""
    for axis in (0, 1):
        lower, upper = cart.Shift(axis, 1)
        lines = np.moveaxis(grid, axis, 0)
        for send, to, take, source in ((1, lower, -1, upper), (-2, upper, 0, lower)):
            edge = np.empty_like(lines[take])
            cart.Sendrecv(np.ascontiguousarray(lines[send]), to, 0, edge, source, 0)
            if source != MPI.PROC_NULL:
                lines[take] = edge
            else:
                lines[take] = 0.0


def half_life(run: dict[str, Any]) -> dict[str, Any]:
    """What one run says of how fast the hump shrinks, and what is exact: serial work on its result."""
    found = run["seconds"] * math.log(2) / -math.log(run["peak"] / _sampled_peak(run["cells"]))
    return {**run, "half_life": found, "exact": math.log(2) / (2 * math.pi**2 * run["conductivity"])}


def _sampled_peak(cells: int) -> float:
    """The hump's height at the point of the grid that is nearest to its top."""
    return math.sin(math.pi * ((cells + 1) // 2) / (cells + 1)) ** 2
