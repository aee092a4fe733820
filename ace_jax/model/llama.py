"""LLaMA over trie rows: every node attends to its ancestors, its depth is its position.

Shapes: R rows of N nodes, width D, H query heads, V vocabulary. A plain left-to-right
sequence is the trie without branches. Layers are stacked on a leading axis and scanned.
Every constant comes from the checkpoint's own config.json.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int, Key

from ace_jax.errors import InputError
from ace_jax.model.lora import TARGETS, LoRA, LoRAConfig

# Kept for the backward pass: the matmuls' results. What is not named here (attention scores,
# norms, the gated product) is cheap and computed again.
SAVED = ("q", "k", "v", "attention", "residual", "gate", "up")


@dataclass(frozen=True)
class LlamaConfig:
    """The architecture, as the checkpoint's config.json states it."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    rope_factors: tuple[float, ...] | None
    """What each rotation frequency is divided by (Llama 3.1 stretches the low ones)."""
    tie_word_embeddings: bool

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "LlamaConfig":
        """Reads a Hugging Face config.json.

        Raises `InputError` for an architecture, rope type or bias this model does not have.
        """
        architectures = config.get("architectures") or [config.get("model_type", "unknown")]
        if architectures[0] not in ("LlamaForCausalLM", "llama"):
            raise InputError(f"config.json: architecture {architectures[0]!r} is not supported")
        for bias in ("attention_bias", "mlp_bias"):
            if config.get(bias):
                raise InputError(f"config.json: {bias} is not supported")
        if config.get("hidden_act", "silu") != "silu":
            raise InputError(f"config.json: hidden_act {config['hidden_act']!r} is not supported")
        # transformers 5 writes rope_theta inside rope_parameters, earlier ones beside rope_scaling.
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if not isinstance(rope, Mapping):
            raise InputError(f"config.json: rope_scaling {rope!r} is not a table")
        try:
            heads = config["num_attention_heads"]
            head_dim = config.get("head_dim") or config["hidden_size"] // heads
            # Configs older than the key (Llama 2) mean what transformers takes it to be.
            rope_theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
            return cls(
                vocab_size=config["vocab_size"],
                hidden_size=config["hidden_size"],
                intermediate_size=config["intermediate_size"],
                num_layers=config["num_hidden_layers"],
                num_heads=heads,
                num_kv_heads=config.get("num_key_value_heads") or heads,
                head_dim=head_dim,
                rms_norm_eps=config["rms_norm_eps"],
                rope_theta=rope_theta,
                rope_factors=_rope_factors(rope, rope_theta, head_dim),
                tie_word_embeddings=config.get("tie_word_embeddings", False),
            )
        except KeyError as missing:
            raise InputError(f"config.json: {missing} is missing") from None


def _rope_factors(
    rope: Mapping[str, Any], rope_theta: float, head_dim: int
) -> tuple[float, ...] | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise InputError(f"config.json: rope type {kind!r} is not supported")
    # Frequencies that turn less than `low` times in the original context are stretched by
    # `factor`, those that turn more than `high` times are kept, the ones between interpolated.
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    turns = rope["original_max_position_embeddings"] * _frequencies(rope_theta, head_dim)
    keep = np.clip((turns / (2 * math.pi) - low) / (high - low), 0, 1)
    return tuple((1 / (keep + (1 - keep) / rope["factor"])).tolist())


def _frequencies(rope_theta: float, head_dim: int) -> Float[np.ndarray, "half"]:
    # In float32, as the models were trained: its rounding grows with the position.
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    return 1 / np.float32(rope_theta) ** exponent


def base_dtype(name: str) -> jnp.dtype:
    """Returns the dtype that `model.dtype` names.

    Raises `InputError` for any but the two that weights are kept in.
    """
    if name not in ("bfloat16", "float32"):
        raise InputError(f"model.dtype: {name!r} is not bfloat16 or float32")
    return jnp.dtype(name)


def rope_frequencies(config: LlamaConfig) -> Float[np.ndarray, "half"]:
    """Returns the rotation in radians per position of each pair of a head's channels."""
    frequencies = _frequencies(config.rope_theta, config.head_dim)
    factors = 1.0 if config.rope_factors is None else np.asarray(config.rope_factors)
    return np.asarray(frequencies / factors, np.float32)


def ancestor_mask(tin: Int[Array, "R N"], tout: Int[Array, "R N"]) -> Bool[Array, "R N N"]:
    """Returns [r, q, k]: node k is q itself or an ancestor of q, tin[k] <= tin[q] < tout[k]."""
    query, start, end = tin[:, :, None], tin[:, None, :], tout[:, None, :]
    return (start <= query) & (query < end)


def rotate(
    x: Float[Array, "R N heads channels"], angle: Float[Array, "R N half"]
) -> Float[Array, "R N heads channels"]:
    """Rotates channel i with channel i + half by the node's angle (RoPE, Hugging Face order)."""
    cos, sin = jnp.cos(angle)[:, :, None, :], jnp.sin(angle)[:, :, None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)


class RMSNorm(nnx.Module):
    """Root-mean-square normalisation, computed in float32."""

    def __init__(self, features: int, eps: float, dtype: jnp.dtype):
        self.scale = nnx.Param(jnp.ones((features,), dtype))
        self.eps = eps

    def __call__(self, x: Float[Array, "R N D"]) -> Float[Array, "R N D"]:
        """Returns x at unit root mean square, times the learned scale."""
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + self.eps)
        return self.scale[...][None, None, :] * wide.astype(x.dtype)


class Linear(nnx.Module):
    """A frozen kernel [in, out] without bias, with a LoRA branch where it is a target."""

    def __init__(
        self,
        name: str,
        inputs: int,
        outputs: int,
        lora: LoRAConfig | None,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(
            nnx.initializers.lecun_normal()(rngs.params(), (inputs, outputs), dtype)
        )
        adapted = lora is not None and name in lora.targets
        self.lora = LoRA(inputs, outputs, lora, rngs) if lora and adapted else None
        # Each adapted layer of a block draws its own dropout mask from the block's key.
        self.stream = TARGETS.index(name)

    def __call__(
        self, x: Float[Array, "R N inputs"], key: Key[Array, ""] | None
    ) -> Float[Array, "R N outputs"]:
        """Returns x W plus the LoRA branch."""
        y = x @ self.kernel[...]
        if self.lora is not None:
            y = y + self.lora(x, None if key is None else jax.random.fold_in(key, self.stream))
        return y


class Block(nnx.Module):
    """One transformer layer: grouped-query attention, then a gated MLP, both with residuals."""

    def __init__(
        self, config: LlamaConfig, lora: LoRAConfig | None, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        width, inner = config.hidden_size, config.intermediate_size
        queries = config.num_heads * config.head_dim
        keys = config.num_kv_heads * config.head_dim
        linear = partial(Linear, lora=lora, dtype=dtype, rngs=rngs)
        self.input_norm = RMSNorm(width, config.rms_norm_eps, dtype)
        self.q_proj = linear("q_proj", width, queries)
        self.k_proj = linear("k_proj", width, keys)
        self.v_proj = linear("v_proj", width, keys)
        self.o_proj = linear("o_proj", queries, width)
        self.mlp_norm = RMSNorm(width, config.rms_norm_eps, dtype)
        self.gate_proj = linear("gate_proj", width, inner)
        self.up_proj = linear("up_proj", width, inner)
        self.down_proj = linear("down_proj", inner, width)
        self.head_dim = config.head_dim

    def __call__(
        self,
        x: Float[Array, "R N D"],
        angle: Float[Array, "R N half"],
        mask: Bool[Array, "R N N"],
        key: Key[Array, ""] | None,
    ) -> Float[Array, "R N D"]:
        """Returns the residual stream after this layer."""
        heads = (*x.shape[:2], -1, self.head_dim)
        h = self.input_norm(x)
        q = checkpoint_name(rotate(self.q_proj(h, key).reshape(heads), angle), "q")
        k = checkpoint_name(rotate(self.k_proj(h, key).reshape(heads), angle), "k")
        v = checkpoint_name(self.v_proj(h, key).reshape(heads), "v")
        attention = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None])
        attention = checkpoint_name(attention.reshape(*x.shape[:2], -1), "attention")
        x = checkpoint_name(x + self.o_proj(attention, key), "residual")
        h = self.mlp_norm(x)
        gate = checkpoint_name(self.gate_proj(h, key), "gate")
        up = checkpoint_name(self.up_proj(h, key), "up")
        return x + self.down_proj(jax.nn.silu(gate) * up, key)


class Llama(nnx.Module):
    """The decoder. Parameters: base `nnx.Param` in `dtype`, adapter `nnx.LoRAParam` in float32."""

    def __init__(
        self, config: LlamaConfig, lora: LoRAConfig | None, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        @nnx.split_rngs(splits=config.num_layers)
        @nnx.vmap
        def stack(rngs: nnx.Rngs) -> Block:
            return Block(config, lora, dtype, rngs)

        normal = nnx.initializers.normal(0.02)
        vocabulary = (config.vocab_size, config.hidden_size)
        self.embedding = nnx.Param(normal(rngs.params(), vocabulary, dtype))
        self.layers = stack(rngs)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        tied = config.tie_word_embeddings
        self.head = None if tied else nnx.Param(normal(rngs.params(), vocabulary, dtype))
        self.config = config

    def __call__(
        self,
        tokens: Int[Array, "R N"],
        depth: Int[Array, "R N"],
        tin: Int[Array, "R N"],
        tout: Int[Array, "R N"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "R N D"]:
        """Returns the normalised last hidden state of every node.

        Args:
          tokens: token id of each node.
          depth: its distance from the root, which is its RoPE position.
          tin: its place in depth-first order.
          tout: one past the place of its last descendant.
          key: for LoRA dropout; None turns dropout off.
        """
        frequencies = jnp.asarray(rope_frequencies(self.config))
        angle = depth[:, :, None].astype(jnp.float32) * frequencies[None, None, :]
        mask = ancestor_mask(tin, tout)
        block, parameters = nnx.split(self.layers)
        keys = None if key is None else jax.random.split(key, self.config.num_layers)

        @partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names(*SAVED))
        def layer(
            x: Float[Array, "R N D"], stacked: tuple[nnx.State, Key[Array, ""] | None]
        ) -> tuple[Float[Array, "R N D"], None]:
            parameters, key = stacked
            return nnx.merge(block, parameters)(x, angle, mask, key), None

        x, _ = jax.lax.scan(layer, self.embedding[...][tokens], (parameters, keys))
        return self.norm(x)

    def logits(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Returns unnormalised log-probabilities of the next token, in float32."""
        head = self.embedding if self.head is None else self.head
        return jnp.einsum("...d,vd->...v", hidden, head[...], preferred_element_type=jnp.float32)
