"""Attention over trie rows, two ways: gathered keys (XLA, everywhere) and one kernel (GPUs).

Shapes: R rows of N nodes, M query nodes a row, H query heads, KV key heads. Nodes are in
depth-first order, so key k is visible to the query at node q iff k <= q < tout[k].

XLA: attention runs over G groups of Q query nodes. Each group has a list of the A key nodes that
any of its queries attends to. The cost grows with the length of a prompt, not with that of a row.

The kernel is flash attention (Dao et al., 2022) in Pallas, lowered by Triton. It visits the blocks
of keys that hold a visible pair, I blocks of queries by J blocks of keys, and no others. No key is
gathered, so no gradient is scattered, and sums have a fixed order. TPUs keep the XLA way: this
kernel reads whole rows by address, which a TPU's vector memory does not allow.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Bool, Float, Int, Shaped

from ace_jax.errors import InputError, check_known
from ace_jax.model.sharding import on_each_device

ATTENTION = ("xla", "pallas", "interpret")  # the last is the kernel, emulated for tests
BLOCK = 64  # nodes of a block of queries or keys, at most
UNSEEN = -1e30  # score of an invisible pair; finite, so that exp(UNSEEN - UNSEEN) is a number

ROWS = ("rows",)
STATES = ("rows", None, "heads", None)  # axes of queries, keys and values
STATISTICS = ("rows", "heads", None)


def checked_attention(way: str) -> str:
    """Returns `model.attention`; raises `InputError` if it is unknown or cannot be had here."""
    check_known(way, ATTENTION, "model.attention")
    if way == "pallas" and (backend := jax.default_backend()) != "gpu":
        raise InputError(f"model.attention: pallas needs a GPU, and JAX runs on {backend}; use xla")
    return way


def nodes_at(x: Shaped[Array, "R N ..."], nodes: Int[Array, "R ..."]) -> Shaped[Array, "R ..."]:
    """Returns the values of x at the given nodes of each row."""
    return jax.vmap(lambda x, nodes: x[nodes])(x, nodes)


@dataclass(frozen=True)
class VisibleKeys:
    """The nodes that G groups of Q query nodes attend to."""

    keys: Int[Array, "R G A"]  # the key nodes of each group, with -1 as padding
    mask: Bool[Array, "R G Q A"]  # whether key a is query q itself or one of its ancestors

    @classmethod
    def find(
        cls,
        queries: Int[Array, "R G Q"],
        keys: Int[Array, "R G A"],
        tin: Int[Array, "R N"],
        tout: Int[Array, "R N"],
    ) -> "VisibleKeys":
        """Masks the keys that are ancestors of each query: tin[k] <= tin[q] < tout[k]."""
        query = nodes_at(tin, queries)[:, :, :, None]
        start, end = (nodes_at(part, keys)[:, :, None, :] for part in (tin, tout))
        return cls(keys, (keys[:, :, None, :] >= 0) & (start <= query) & (query < end))

    def attend(
        self,
        q: Float[Array, "R M H channels"],
        k: Float[Array, "R N KV channels"],
        v: Float[Array, "R N KV channels"],
    ) -> Float[Array, "R M H channels"]:
        """Returns grouped-query attention of M = G * Q queries, with the softmax in float32.

        One matmul covers all query heads of a group and key head. On CPU, XLA runs this faster than
        `jax.nn.dot_product_attention`.
        """
        rows, groups, queries, seen = self.mask.shape
        heads, channels = k.shape[2:]
        q_of = q.reshape(rows, groups, queries, heads, -1, channels).transpose(0, 1, 3, 4, 2, 5)
        q_of = q_of.reshape(rows, groups, heads, -1, channels)
        k, v = (nodes_at(part, self.keys).transpose(0, 1, 3, 2, 4) for part in (k, v))
        scores = jnp.einsum("rghqc,rghac->rghqa", q_of, k, preferred_element_type=jnp.float32)
        scores = scores.reshape(rows, groups, heads, -1, queries, seen) * channels**-0.5
        weights = jax.nn.softmax(jnp.where(self.mask[:, :, None, None], scores, -jnp.inf), axis=-1)
        weights = weights.astype(v.dtype).reshape(rows, groups, heads, -1, seen)
        found = jnp.einsum("rghqa,rghac->rghqc", weights, v)
        found = found.reshape(rows, groups, heads, -1, queries, channels).transpose(
            0, 1, 4, 2, 3, 5
        )
        return checkpoint_name(found.reshape(q.shape), "attention")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class VisibleBlocks:
    """The blocks of queries and keys that hold a visible pair, for the kernel.

    All are int32. Shardings take the arrays' place, so fields are untyped.
    """

    at: Any  # [R M], the node of each query
    end: Any  # [R N], key k is visible to the nodes from k to before end[k]
    keys: Any  # [R I 1+J], for each block of queries: how many blocks of keys, and which
    queries: Any  # [R J 1+I], for each block of keys: how many blocks of queries, and which
    interpret: bool = field(metadata={"static": True})

    @classmethod
    def find(
        cls, queries: Int[Array, "R M"], tout: Int[Array, "R N"], interpret: bool
    ) -> "VisibleBlocks":
        """Lists the blocks. A padding node (tout 0) sees itself, so that every query sees a key.

        Blocks meet if the first key is not after the last query, and the subtree of some key
        reaches beyond the first query. That is exact where queries are all nodes in their order.
        """
        nodes = jnp.arange(tout.shape[1], dtype=tout.dtype)[None]
        end = jnp.maximum(tout, nodes + 1)
        of_queries, of_keys, ends = (_blocks(part) for part in (queries, nodes, end))
        meets = of_keys[:, None, :, 0] <= of_queries.max(axis=2)[:, :, None]
        meets &= of_queries.min(axis=2)[:, :, None] < ends.max(axis=2)[:, None, :]
        return cls(queries, end, _listed(meets), _listed(meets.swapaxes(1, 2)), interpret)

    def attend(
        self,
        q: Float[Array, "R M H channels"],
        k: Float[Array, "R N KV channels"],
        v: Float[Array, "R N KV channels"],
    ) -> Float[Array, "R M H channels"]:
        """Returns what `VisibleKeys.attend` does; statistics and sums are float32."""
        return _attend(q, k, v, self)


def _blocks(nodes: Int[Array, "R N"]) -> Int[Array, "R I block"]:
    return nodes.reshape(len(nodes), -1, math.gcd(nodes.shape[1], BLOCK))


def _listed(meets: Bool[Array, "R I J"]) -> Int[Array, "R I _"]:
    count = meets.sum(axis=2, keepdims=True, dtype=jnp.int32)
    return jnp.concatenate([count, jnp.argsort(~meets, axis=2).astype(jnp.int32)], axis=2)


@jax.custom_vjp
def _attend(q: Array, k: Array, v: Array, visible: VisibleBlocks) -> Array:
    return _forward(q, k, v, visible)[0]


def _forward(q: Array, k: Array, v: Array, visible: VisibleBlocks) -> tuple[Array, tuple]:
    specs = (STATES, STATES, STATES, ROWS)
    run = on_each_device(_run_forward, specs, (STATES, STATISTICS), k.shape[2])
    # What the backward pass needs has a name, so that `model.remat` keeps it and this runs once.
    out, lse = (checkpoint_name(part, "attention") for part in run(q, k, v, visible))
    return out, (q, k, v, visible, out, lse)


def _backward(saved: tuple, gradient: Array) -> tuple[Array, Array, Array, None]:
    q, k, v, visible, out, lse = saved
    mean = (out.astype(jnp.float32) * gradient.astype(jnp.float32)).sum(axis=3).swapaxes(1, 2)
    specs = (STATES, STATES, STATES, ROWS, STATES, STATISTICS, STATISTICS)
    run = on_each_device(_run_backward, specs, (STATES, STATES, STATES), k.shape[2])
    return *run(q, k, v, visible, gradient, lse, mean), None


_attend.defvjp(_forward, _backward)


def _run_forward(q: Array, k: Array, v: Array, visible: VisibleBlocks) -> tuple[Array, ...]:
    """Returns the attention, and the logarithm of each query's sum of weights [R, H, M]."""
    lse = jax.ShapeDtypeStruct((q.shape[0], q.shape[2], q.shape[1]), jnp.float32)
    inputs = [(visible.keys, "rj."), (visible.at, "ri"), (visible.end, "r.")]
    inputs += [(q, "rih."), (k, "r.k."), (v, "r.k.")]
    return _launch(_forward_kernel, inputs, [(q, "rih."), (lse, "rhi")], visible)


def _run_backward(
    q: Array, k: Array, v: Array, visible: VisibleBlocks, gradient: Array, lse: Array, mean: Array
) -> tuple[Array, Array, Array]:
    """Returns the gradients of q, k and v.

    `mean` is each query's mean of the gradients of its weights, weighted by these. A program takes
    a block of keys and one query head; what query heads add to a key head is summed here, float32.
    """
    inputs = [(visible.keys, "rj."), (visible.at, "ri"), (visible.end, "r.")]
    inputs += [(q, "rih."), (k, "r.k."), (v, "r.k.")]
    inputs += [(gradient, "rih."), (lse, "rhi"), (mean, "rhi")]
    (dq,) = _launch(_query_kernel, inputs, [(q, "rih.")], visible)

    inputs = [(visible.queries, "rj."), (visible.at, "r."), (visible.end, "ri")]
    inputs += [(q, "r.h."), (k, "rik."), (v, "rik.")]
    inputs += [(gradient, "r.h."), (lse, "rh."), (mean, "rh.")]
    part = jax.ShapeDtypeStruct((*k.shape[:2], *q.shape[2:]), jnp.float32)
    parts = _launch(_key_kernel, inputs, [(part, "rih.")] * 2, visible)
    dk, dv = (part.reshape(*k.shape[:3], -1, k.shape[3]).sum(axis=3) for part in parts)
    return dq, dk.astype(k.dtype), dv.astype(v.dtype)


def _launch(
    kernel: Callable[..., None],
    inputs: list[tuple[Array, str]],
    outputs: list[tuple[Any, str]],
    visible: VisibleBlocks,
) -> tuple[Array, ...]:
    """Runs a kernel for each query head, block (the first input lists what it meets) and row.

    A letter an axis says what a program sees of an array: its row (r), its query head (h), the key
    head of that (k), its block's nodes (i) or list (j), or all (.).
    """
    blocks, (queries, keys) = inputs[0][0].shape[1], (inputs[n][0].shape[2] for n in (3, 4))

    def spec(array: Any, axes: str) -> pl.BlockSpec:
        parts = {"i": blocks, ".": 1}
        shape = zip(axes, array.shape, strict=True)

        def place(h: Array, i: Array, r: Array) -> tuple[Any, ...]:
            at = {"r": r, "h": h, "k": h // (queries // keys), "i": i, "j": i, ".": 0}
            return tuple(at[axis] for axis in axes)

        sizes = (size // parts[axis] if axis in parts else None for axis, size in shape)
        return pl.BlockSpec(tuple(sizes), place)

    call = pl.pallas_call(
        kernel,
        grid=(queries, blocks, len(visible.at)),
        in_specs=[spec(*each) for each in inputs],
        out_specs=[spec(*each) for each in outputs],
        out_shape=[jax.ShapeDtypeStruct(each.shape, each.dtype) for each, _ in outputs],
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        interpret=visible.interpret,
        name=kernel.__name__.strip("_"),
    )
    return tuple(call(*(each for each, _ in inputs)))


def _scores(
    q: Float[Array, "queries channels"],
    k: Float[Array, "keys channels"],
    at: Int[Array, "queries"],
    end: Int[Array, "keys"],
    first: Int[Array, ""],
) -> Float[Array, "queries keys"]:
    """Returns the scaled products of queries and the keys from node `first` on, in float32."""
    nodes, at = (first + jnp.arange(len(end), dtype=at.dtype))[None], at[:, None]
    scores = triton.dot(q, k, trans_b=True) * q.shape[1] ** -0.5
    return jnp.where((nodes <= at) & (at < end[None]), scores, UNSEEN)


def _forward_kernel(*refs: Any) -> None:
    """One head's attention for a block of queries, with a running maximum and sum of weights."""
    keys, at, end, q, k, v, out, lse = refs
    queries, nodes = q[...], at[...]
    size = len(k) // (len(keys) - 1)

    def add(number: Array, found: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        total, most, weight = found
        first = keys[number + 1] * size
        part = pl.ds(first, size)
        scores = _scores(queries, k[part, :], nodes, end[part], first)
        more = jnp.maximum(most, scores.max(axis=1))
        weights, shrink = jnp.exp(scores - more[:, None]), jnp.exp(most - more)
        values = v[part, :]
        total = total * shrink[:, None] + triton.dot(weights.astype(values.dtype), values)
        return total, more, weight * shrink + weights.sum(axis=1)

    nothing = jnp.zeros(len(nodes), jnp.float32)
    start = (jnp.zeros(queries.shape, jnp.float32), nothing + UNSEEN, nothing)
    total, most, weight = jax.lax.fori_loop(0, keys[0], add, start)
    out[...] = (total / weight[:, None]).astype(out.dtype)
    lse[...] = most + jnp.log(weight)


def _query_kernel(*refs: Any) -> None:
    """The gradient of one head's block of queries."""
    keys, at, end, q, k, v, gradient, lse, mean, dq = refs
    queries, nodes, outer = q[...], at[...], gradient[...]
    size = len(k) // (len(keys) - 1)

    def add(number: Array, total: Array) -> Array:
        first = keys[number + 1] * size
        part = pl.ds(first, size)
        of_keys = k[part, :]
        weights = jnp.exp(_scores(queries, of_keys, nodes, end[part], first) - lse[...][:, None])
        change = weights * (triton.dot(outer, v[part, :], trans_b=True) - mean[...][:, None])
        return total + triton.dot(change.astype(of_keys.dtype), of_keys)

    total = jax.lax.fori_loop(0, keys[0], add, jnp.zeros(queries.shape, jnp.float32))
    dq[...] = (total * queries.shape[1] ** -0.5).astype(dq.dtype)


def _key_kernel(*refs: Any) -> None:
    """What one query head adds to the gradients of a block of keys and values, in float32."""
    queries, at, end, q, k, v, gradient, lse, mean, dk, dv = refs
    of_keys, values, ends = k[...], v[...], end[...]
    size = len(q) // (len(queries) - 1)
    first = pl.program_id(1) * len(ends)

    def add(number: Array, total: tuple[Array, Array]) -> tuple[Array, Array]:
        part = pl.ds(queries[number + 1] * size, size)
        of_queries, outer = q[part, :], gradient[part, :]
        scores = _scores(of_queries, of_keys, at[part], ends, first)
        weights = jnp.exp(scores - lse[part][:, None])
        change = weights * (triton.dot(outer, values, trans_b=True) - mean[part][:, None])
        return (
            total[0] + triton.dot(change.astype(of_queries.dtype), of_queries, trans_a=True),
            total[1] + triton.dot(weights.astype(outer.dtype), outer, trans_a=True),
        )

    nothing = jnp.zeros(of_keys.shape, jnp.float32)
    of_k, of_v = jax.lax.fori_loop(0, queries[0], add, (nothing, nothing))
    dk[...], dv[...] = of_k * of_keys.shape[1] ** -0.5, of_v
