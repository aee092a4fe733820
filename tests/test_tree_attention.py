"""Both ways of attention over trie rows against a dense softmax over each node's ancestors."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ace_jax.errors import InputError
from ace_jax.losses import Anchor
from ace_jax.model.formats.hub import open_checkpoint
from ace_jax.model.llama import REMAT, abstract_model
from ace_jax.model.lora import LoRAConfig
from ace_jax.model.sharding import make_mesh, replicated
from ace_jax.model.tree_attention import BLOCK, VisibleBlocks, checked_attention
from ace_jax.training.step import objective

RARELY = 0.05


def forest(nodes: int, kind: str, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The parent of each node in depth-first order, -1 of a root, and the end of its subtree."""
    parents, path = np.full(nodes, -1), []
    for node in range(nodes):
        depth = {
            "chain": len(path),
            "star": min(len(path), 1),
            "roots": 0,
            "bushy": draw.integers(len(path) + 1),
            "prompts": len(path) if draw.random() > RARELY else draw.integers(len(path) + 1),
        }[kind]
        path = [*path[:depth], node]
        parents[node] = path[-2] if depth else -1
    tout = np.arange(1, nodes + 1)
    for node in reversed(range(nodes)):
        if parents[node] >= 0:
            tout[parents[node]] = max(tout[parents[node]], tout[node])
    return parents, tout


KINDS = ("chain", "star", "roots", "bushy", "prompts")


def rows_of(rows: int, length: int, scored: int, draw: np.random.Generator):
    """tout as `batches` pads it, the scored nodes, and who is an ancestor of whom."""
    tout = np.zeros((rows, length), np.int32)
    queries = np.zeros((rows, scored), np.int32)
    ancestors = np.zeros((rows, length, length), bool)
    for row in range(rows):
        nodes = draw.choice([0, 1, length, draw.integers(1, length + 1)], p=[0.1, 0.1, 0.3, 0.5])
        parents, ends = forest(nodes, draw.choice(KINDS), draw)
        tout[row, :nodes] = ends
        some = draw.permutation(nodes)[:scored]
        queries[row, : len(some)] = np.sort(some)
        for node in range(nodes):
            if parents[node] >= 0:
                ancestors[row, node] = ancestors[row, parents[node]]
            ancestors[row, node, node] = True
    return tout, queries, ancestors


def dense(q, k, v, seen):
    """Attention of q [R M H C] to k and v [R N KV C] where seen [R M N]; no key seen: 0."""
    k, v = (jnp.repeat(part, q.shape[2] // k.shape[2], axis=2) for part in (k, v))
    scores = jnp.einsum("rmhc,rnhc->rhmn", q, k) / np.sqrt(q.shape[3])
    weights = jax.nn.softmax(jnp.where(seen[:, None], scores, -1e9), axis=-1)
    weights = jnp.where(seen[:, None], weights, 0)
    return jnp.einsum("rhmn,rnhc->rmhc", weights, v)


@jax.jit
def by_kernel(q, k, v, queries, tout, outer):
    visible = VisibleBlocks.find(queries, tout, interpret=True)
    found, back = jax.vjp(visible.attend, q, k, v)
    return found, *back(outer)


@jax.jit
def by_softmax(q, k, v, seen, outer):
    found, back = jax.vjp(partial(dense, seen=seen), q, k, v)
    return found, *back(outer)


@pytest.mark.parametrize(
    ("rows", "length", "scored", "heads", "channels"),
    [
        (8, 192, None, (4, 2), 64),  # three blocks, grouped queries
        (8, 96, None, (2, 2), 128),  # half blocks
        (8, 128, 16, (4, 1), 64),  # as in the last layer
        (8, 192, 64, (2, 1), 128),
    ],
)
def test_equal_to_a_dense_softmax_over_any_forest(rows, length, scored, heads, channels):
    draw = np.random.default_rng(length)
    for _ in range(8):
        tout, queries, ancestors = rows_of(rows, length, scored or 1, draw)
        if scored is None:
            queries = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
        seen = np.take_along_axis(ancestors, queries[:, :, None], axis=1)
        shape = (rows, length, heads[1], channels)
        k, v = draw.normal(size=(2, *shape)).astype(np.float32)
        q, outer = draw.normal(size=(2, *queries.shape, heads[0], channels)).astype(np.float32)
        # Nothing reads what padding nodes find, so no gradient comes from them.
        real = seen.any(axis=2)[:, :, None, None]
        found = by_kernel(q, k, v, queries, tout, outer * real)
        wanted = by_softmax(q, k, v, seen, outer * real)
        assert np.isfinite(found[0]).all()
        np.testing.assert_allclose(found[0] * real, wanted[0], rtol=0, atol=1e-5)
        for mine, theirs in zip(found[1:], wanted[1:], strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scored", [None, 16])
def test_a_block_of_keys_is_visited_if_a_query_sees_one_of_them(scored):
    draw = np.random.default_rng(1)
    find = jax.jit(partial(VisibleBlocks.find, interpret=True))
    skipped = 0
    for _ in range(20):
        tout, queries, ancestors = rows_of(4, 512, scored or 1, draw)
        np.einsum("rnn->rn", ancestors)[...] = True  # padding nodes see themselves
        if scored is None:
            queries = np.tile(np.arange(512, dtype=np.int32), (4, 1))
        seen = np.take_along_axis(ancestors, queries[:, :, None], axis=1)
        size = math.gcd(queries.shape[1], BLOCK)
        wanted = seen.reshape(4, -1, size, 512 // BLOCK, BLOCK).any(axis=(2, 4))
        visible = find(queries, tout)
        for lists, meets in ((visible.keys, wanted), (visible.queries, wanted.swapaxes(1, 2))):
            for (count, *listed), needed in zip(
                np.asarray(lists).reshape(-1, lists.shape[2]),
                meets.reshape(-1, meets.shape[2]),
                strict=True,
            ):
                visited = set(listed[:count])
                # Chosen queries may leave gaps, where a block too many is harmless.
                assert visited >= set(np.flatnonzero(needed))
                assert scored or visited == set(np.flatnonzero(needed))
                skipped += len(listed) - count
    assert skipped


LORA = LoRAConfig(rank=4, alpha=8.0, dropout=0.0, targets=("q_proj", "k_proj", "o_proj"))


def step_of(directory, survey, attention):
    """The loss and its gradient as a function, and its arguments, weights at random."""
    config, float32 = open_checkpoint(str(directory)).config, jnp.dtype("float32")
    model = abstract_model(config, LORA, float32, attention=attention)
    draw = np.random.default_rng(0)
    lora, base = jax.tree.map(
        lambda leaf: jnp.asarray(draw.normal(0, 0.15, leaf.shape), jnp.float32),
        (model.lora, model.base),
    )
    batch = survey.batch((0, 1, 4, 6))

    def run(lora, base, scoring, targets):
        arguments = (base, model.graph, scoring, targets, (0.7, 1.3), Anchor())
        return jax.value_and_grad(objective, has_aux=True)(lora, *arguments)

    return run, (lora, base, batch.scoring, batch.targets)


def test_a_training_step_is_that_of_the_xla_way(tiny_checkpoint, survey):
    run, arguments = step_of(tiny_checkpoint, survey, "xla")
    (wanted, _), of_wanted = jax.jit(run)(*arguments)
    run, _ = step_of(tiny_checkpoint, survey, "interpret")
    for sizes in ((1, 1, 1), (2, 2, 2)):
        mesh = make_mesh(*sizes, devices=jax.devices()[: math.prod(sizes)])
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            (found, _), of_found = jax.jit(run)(*jax.device_put(arguments, replicated(mesh)))
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
        for mine, theirs in zip(*map(jax.tree.leaves, (of_found, of_wanted)), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize(("remat", "kept"), [("matmuls", True), ("full", False)])
def test_what_the_backward_kernels_need_is_kept_as_other_activations_are(remat, kept):
    nodes = jnp.arange(32, dtype=jnp.int32)[None]
    visible = VisibleBlocks.find(nodes, nodes + 1, interpret=True)
    q, k = jnp.ones((1, 32, 4, 16)), jnp.ones((1, 32, 2, 16))
    layer = jax.checkpoint(lambda q: visible.attend(q, k, k), policy=REMAT[remat])
    _, back = jax.vjp(layer, q)
    statistics = (1, 4, 32)
    assert (statistics in [leaf.shape for leaf in jax.tree.leaves(back)]) == kept


def test_the_kernel_is_refused_where_there_is_no_gpu():
    assert checked_attention("xla") == "xla"
    with pytest.raises(InputError, match=r"model\.attention: pallas needs a GPU, .* cpu; use xla"):
        checked_attention("pallas")
    with pytest.raises(InputError, match=r"model\.attention: 'flash' is not known"):
        checked_attention("flash")
