"""Floating-point operations of the matrix products in a traced program.

XLA's own count takes a loop's body once; this one takes it once an iteration. Everything but
matrix products is left out: it adds a few per cent.
"""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core


def matmul_flops(jaxpr: core.Jaxpr) -> int:
    """Returns two operations for each multiplication and addition of all matrix products.

    Raises `ValueError` for a `while` loop with products: its number of iterations is not known.
    """
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left: Any = equation.invars[0].aval
            result: Any = equation.outvars[0].aval
            total += 2 * result.size * math.prod(left.shape[axis] for axis in contracted)
            continue
        inner = sum(map(matmul_flops, _inner(equation)))
        if inner and name == "while":
            raise ValueError("a while loop with matrix products has no fixed number of iterations")
        total += inner * (equation.params["length"] if name == "scan" else 1)
    return total


def _inner(equation: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """Yields the jaxprs that an equation runs: of jit, checkpoint, scan, while, custom rules."""
    for value in equation.params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(part, core.ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, core.Jaxpr):
                yield part
