"""How many floating-point operations a traced program has.

Counted from its jaxpr, loops as often as they run; XLA's own count takes a loop's body once. Only
matrix products count: all else is a few per cent.
"""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core


def matmul_flops(jaxpr: core.Jaxpr) -> int:
    """Returns two operations for each multiplication and addition of all matrix products.

    Raises `ValueError` for a `while` loop with products in it: how often it runs is not written.
    """
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            total += _product(equation)
            continue
        inner = sum(map(matmul_flops, _inner(equation)))
        if inner and equation.primitive.name == "while":
            raise ValueError("a while loop with matrix products has no fixed number of trips")
        total += inner * equation.params["length"] if equation.primitive.name == "scan" else inner
    return total


def _product(equation: core.JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, result = _shape(equation.invars[0]), _shape(equation.outvars[0])
    return 2 * math.prod(result) * math.prod(left[axis] for axis in contracted)


def _shape(variable: Any) -> tuple[int, ...]:
    return tuple(variable.aval.shape)


def _inner(equation: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """Yields the jaxprs that an equation runs: of jit, checkpoint, scan, while, custom rules."""
    for value in equation.params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(part, core.ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, core.Jaxpr):
                yield part
