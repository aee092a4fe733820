"""The objective without sharing: one causal forward an option, logits at every position.

A second Llama, as small as can be, over the package's own parameters. Of the package it uses the
RoPE frequencies and the losses, which other tests check against transformers and by hand.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_softmax, silu, softmax

from ace_jax.losses import anchor_loss, effect_loss
from ace_jax.model.architecture import LlamaConfig
from ace_jax.prompts.batches import Targets
from ace_jax.prompts.encode import Prompt


def logits(p: dict, config: LlamaConfig, scale: float, tokens: jax.Array) -> jax.Array:
    """Logits [T, V] of every position; `scale` is the LoRA's alpha / rank."""
    angle = jnp.outer(jnp.arange(len(tokens)), config.rope.frequencies(config.head_dim))[:, None]
    causal = jnp.tril(jnp.ones((1, len(tokens), len(tokens)), bool))

    def norm(x, weight):
        return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + config.rms_norm_eps) * weight[None]

    def linear(x, layer):
        return x @ layer["kernel"] + scale * (x @ layer["lora"]["a"] @ layer["lora"]["b"])

    def rotate(x):
        a, b = jnp.split(x, 2, axis=-1)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    x = p["embedding"][tokens]
    for number in range(config.num_layers):
        layer = jax.tree.map(lambda stacked, number=number: stacked[number], p["layers"])
        h = norm(x, layer["input_norm"]["scale"])
        q, k, v = (
            linear(h, layer[name]).reshape(len(tokens), -1, config.head_dim)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        k, v = (jnp.repeat(part, q.shape[1] // k.shape[1], axis=1) for part in (k, v))
        scores = jnp.einsum("qhd,khd->hqk", rotate(q), rotate(k)) / config.head_dim**0.5
        seen = jnp.einsum("hqk,khd->qhd", softmax(jnp.where(causal, scores, -jnp.inf)), v)
        x += linear(seen.reshape(len(tokens), -1), layer["o_proj"])
        h = norm(x, layer["mlp_norm"]["scale"])
        gated = silu(linear(h, layer["gate_proj"])) * linear(h, layer["up_proj"])
        x += linear(gated, layer["down_proj"])
    return norm(x, p["norm"]["scale"]) @ p["head"].T


def sequences(prompts: list[Prompt], cells: int, options: int, length: int) -> np.ndarray:
    """Every cell's prompt with each of its options, [C, K, 2, length]: tokens, and which count."""
    arrays = np.zeros((cells, options, 2, length), np.int32)
    for cell, prompt in enumerate(prompts):
        for option, label in enumerate(prompt.options):
            start, end = len(prompt.tokens), len(prompt.tokens + label)
            arrays[cell, option, 0, :end] = prompt.tokens + label
            arrays[cell, option, 1, start:end] = 1
    return arrays


def loss(
    p: dict,
    config: LlamaConfig,
    scale: float,
    sequences: jax.Array,
    option_mask: jax.Array,
    targets: Targets,
    alpha: float,
    beta: float,
    normalizer: str,
) -> jax.Array:
    """Eq. 14 from Eq. 2, 3, 9 and 13."""

    def log_likelihood(sequence):
        tokens, counts = sequence
        log_p = log_softmax(logits(p, config, scale, tokens))[:-1]
        return jnp.sum(log_p[jnp.arange(len(tokens) - 1), tokens[1:]], where=counts[1:] > 0)

    scores = jax.vmap(jax.vmap(log_likelihood))(sequences)
    log_p = log_softmax(scores, where=option_mask)
    anchored = log_p if normalizer == "options" else scores
    anchor = anchor_loss(anchored, targets.mode, targets.pairs, targets.pair_weight)
    of_pairs = (option_mask, targets.pairs, targets.pair_weight)
    return alpha * anchor + beta * effect_loss(jnp.exp(log_p), targets.p_data, *of_pairs)
