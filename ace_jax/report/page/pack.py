"""Answers of every cell, small enough to travel inside a page (opened by explorer.js).

A question's chunk is n of every country x persona (uint32), then, for every source (the survey,
then the runs), country and option but the last, the cumulative shares of all personas (uint8, each
as the step from the one before, wrapping round), deflated, in base64. Cumulative, because then the
distance between two answers as shown is off by no more than one rounding; as steps, because
neighbouring personas answer alike; a chunk a question, so that only what is looked at is unpacked.
"""

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int, UInt8

# Everything is this many steps; fewer where the page would grow too large.
LEVELS = (255, 127, 63, 31)
LARGEST = 11_500_000  # characters of base64, of the 15 MB that a page may have


@dataclass(frozen=True)
class Packed:
    """`chunks`: base64, one a question, in order. `levels`: steps that a share of 1 has."""

    chunks: tuple[str, ...]
    levels: int


@dataclass(frozen=True)
class Grid:
    """Where each cell lies: integer places in question, country and persona, and its n.

    `options` is K of every question, by its place.
    """

    question: Int[np.ndarray, "cells"]
    country: Int[np.ndarray, "cells"]
    persona: Int[np.ndarray, "cells"]
    n: Int[np.ndarray, "cells"]
    options: Int[np.ndarray, "questions"]
    countries: int
    personas: int


def pack(grid: Grid, sources: Sequence[Float[np.ndarray, "cells longest"]]) -> Packed | None:
    """Returns the answers of all sources, or None where they would make the page too large.

    Args:
      grid: where the cells lie.
      sources: a distribution a cell, in option order, padded with zeros up to the longest.
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
        # The places of a cell's options are not next to each other: numpy takes country and
        # persona first, the slice between them last.
        shares[source, country, :, persona] = np.round(levels * of[rows, : options - 1])
    return base64.b64encode(zlib.compress(n.tobytes() + _steps(shares).tobytes(), 6)).decode()


def _steps(shares: UInt8[np.ndarray, "*all personas"]) -> UInt8[np.ndarray, "*all personas"]:
    return np.diff(shares, axis=-1, prepend=np.uint8(0))  # uint8 wraps round, and so does the page
