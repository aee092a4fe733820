"""What a step costs: operations of its matrix products, and the bytes that devices send.

XLA's own count of operations takes a loop's body once; this one takes it once an iteration.
Everything but matrix products is left out: it adds a few per cent.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.sharding import Mesh

from ace_jax.model.llama import AbstractModel


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
        # What jit, checkpoint, scan, while and custom rules run is among their parameters.
        parts = jax.tree.leaves(list(equation.params.values()))
        parts = [each.jaxpr if isinstance(each, core.ClosedJaxpr) else each for each in parts]
        inner = sum(matmul_flops(each) for each in parts if isinstance(each, core.Jaxpr))
        if inner and name == "while":
            raise ValueError("a while loop with matrix products has no fixed number of iterations")
        total += inner * (equation.params["length"] if name == "scan" else 1)
    return total


def sent_bytes(model: AbstractModel, nodes: int, mesh: Mesh, passes: int) -> float:
    """Returns the bytes that a device sends in a step, in rings.

    Each of one or two `passes` gathers the layers' weights along `fsdp`, and one the vocabulary's.
    Along `tensor`, a layer sums the hidden states of a device's `nodes` after its two last
    products, and backwards before its five first. The adapter's gradient is summed over all that
    share the rows. What else is sent is little.
    """
    data, fsdp, tensor = (mesh.shape[axis] for axis in ("data", "fsdp", "tensor"))
    layers, backwards = model.base["layers"], passes - 1
    states = nodes * tree_bytes(layers["input_norm"])  # a norm has the width of a state
    head = model.base.get("head", model.base["embedding"])
    weights = passes * tree_bytes(layers) + tree_bytes(head)
    gathered = weights / tensor * (fsdp - 1) / fsdp
    summed = (2 + 5 * backwards) * states * (tensor - 1) / tensor
    summed += backwards * tree_bytes(model.lora) * (data * fsdp - 1) / (data * fsdp)
    return gathered + 2 * summed


def tree_bytes(tree: Any) -> int:
    """Returns the size of the arrays in a tree of shapes on a device."""
    return sum(array_bytes(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree))


def array_bytes(shape: tuple[int, ...], dtype: Any) -> int:
    """Returns the size of an array on a device."""
    if jnp.issubdtype(dtype, jnp.integer):  # accelerators pack two values of four bits into a byte
        return math.prod(shape) * jnp.iinfo(dtype).bits // 8
    return math.prod(shape) * dtype.itemsize
