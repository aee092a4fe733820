"""Packs the answers of every cell, so that they fit into a page (explorer.js unpacks them).

Each question has a chunk, so that the page unpacks only what is looked at. A chunk holds n of every
country x persona (uint32). Then follow, for every source (the survey, then the runs), country and
option but the last, the cumulative shares of all personas (uint8). Each share is stored as the step
from the one before, wrapping around, because neighbouring personas answer alike. The chunk is
deflated and encoded in base64. Cumulative shares keep the distance of two answers within one
rounding.
"""

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int, UInt8

# Steps that a share of 1 has; fewer if the page would become too large.
LEVELS = (255, 127, 63, 31)
LARGEST = 11_500_000  # characters of base64, of the 15 MB that a page may have


@dataclass(frozen=True)
class Packed:
    """Base64 `chunks`, one a question in order, and `levels`, the steps that a share of 1 has."""

    chunks: tuple[str, ...]
    levels: int


@dataclass(frozen=True)
class Grid:
    """The position of each cell's question, country and persona, its n, and K of each question."""

    question: Int[np.ndarray, "cells"]
    country: Int[np.ndarray, "cells"]
    persona: Int[np.ndarray, "cells"]
    n: Int[np.ndarray, "cells"]
    options: Int[np.ndarray, "questions"]
    countries: int
    personas: int


def pack(grid: Grid, sources: Sequence[Float[np.ndarray, "cells longest"]]) -> Packed | None:
    """Returns the answers of all sources, or None if the page would become too large.

    Args:
      grid: the cells' positions.
      sources: of each source, one distribution a cell, padded with zeros to the longest.
    """
    cumulative = [np.clip(np.cumsum(source, axis=1), 0, 1) for source in sources]
    order = np.argsort(grid.question, kind="stable")
    bounds = np.searchsorted(grid.question[order], np.arange(len(grid.options) + 1))
    rows = [order[start:stop] for start, stop in pairwise(bounds)]
    for levels in LEVELS:
        chunks, size = [], 0
        for question, its in enumerate(rows):
            chunks.append(_chunk(grid, cumulative, its, int(grid.options[question]), levels))
            size += len(chunks[-1])
            if size > LARGEST:
                break
        else:
            return Packed(tuple(chunks), levels)
    return None


def _chunk(
    grid: Grid,
    cumulative: Sequence[Float[np.ndarray, "cells longest"]],
    rows: Int[np.ndarray, "its_cells"],
    options: int,
    levels: int,
) -> str:
    country, persona = grid.country[rows], grid.persona[rows]
    n = np.zeros((grid.countries, grid.personas), "<u4")
    n[country, persona] = grid.n[rows]
    shares = np.zeros((len(cumulative), grid.countries, options - 1, grid.personas), np.uint8)
    for source, of in enumerate(cumulative):
        # With a slice between two index arrays, numpy puts the slice's axis last.
        shares[source, country, :, persona] = np.round(levels * of[rows, : options - 1])
    return base64.b64encode(zlib.compress(n.tobytes() + _steps(shares).tobytes(), 6)).decode()


def _steps(shares: UInt8[np.ndarray, "*all personas"]) -> UInt8[np.ndarray, "*all personas"]:
    return np.diff(shares, axis=-1, prepend=np.uint8(0))  # uint8 wraps around, also in the page
