"""Quantisation of the frozen base with qwix. It saves memory, not time.

`int8` has one scale for each output channel. `nf4` (QLoRA, Dettmers et al., 2023) has four bits a
weight and one scale for every 64 weights of a channel. A kernel is dequantised where it is used.
"""

from typing import Any

import jax
import qwix
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from ace_jax.errors import InputError, check_known
from ace_jax.model.sharding import parameter_path, parameter_sharding

KINDS = ("none", "int8", "nf4")
NF4_BLOCK = 64


def quantize(kernel: Float[Array, "layers inputs outputs"], kind: str) -> qwix.QArray:
    """Returns the kernels of all layers in `int8` or `nf4`."""
    blocks = {1: NF4_BLOCK} if kind == "nf4" else None
    return qwix.quantize(kernel, kind, channelwise_axes=(0, 2), tiled_axes=blocks)


def widen(kernel: Any) -> Array:
    """Returns a kernel in the dtype it had before `quantize`."""
    return qwix.dequantize(kernel) if is_quantized(kernel) else kernel


def is_quantized(leaf: Any) -> bool:
    """Returns whether a leaf is a quantised kernel instead of an array."""
    return isinstance(leaf, qwix.QArray)


def quantize_like(
    kernel: Float[Array, "layers inputs outputs"],
    wanted: qwix.QArray,
    path: tuple[str, ...],
    mesh: Mesh,
) -> qwix.QArray:
    """Quantises the kernels at `path` to the kind of `wanted`, and shards them over the mesh."""
    shardings = jax.tree.map(lambda part: parameter_sharding(path, part.shape, mesh), wanted)
    change = jax.jit(quantize, static_argnames="kind", out_shardings=shardings)
    return change(kernel, kind=wanted.qtype)


def quantized(base: nnx.State, kind: str) -> nnx.State:
    """Returns the shapes of a base model with quantised kernels; embedding and head stay.

    Raises `InputError` for an unknown kind, and for sizes that are no multiple of NF4's blocks.
    """
    check_known(kind, KINDS, "model.quantization")

    def change(path: Any, leaf: jax.ShapeDtypeStruct) -> Any:
        if kind == "none" or parameter_path(path)[-1] != "kernel":
            return leaf
        if kind == "nf4" and leaf.shape[1] % NF4_BLOCK:
            raise InputError(
                f"model.quantization: nf4 has blocks of {NF4_BLOCK}, which do not divide the "
                f"{leaf.shape[1]} inputs of {parameter_path(path)[1]}; use int8"
            )
        return jax.eval_shape(lambda kernel: quantize(kernel, kind), leaf)

    return jax.tree_util.tree_map_with_path(change, base)
