"""LLaMA over trie rows: every node attends to its ancestors, its depth is its position.

Shapes: R rows of N nodes in B blocks, S scored nodes a row, width D, H query heads, V vocabulary. A
plain left-to-right sequence is the trie without branches. Layers are stacked on a leading axis.

Attention runs over G groups of Q query nodes, each with the A key nodes that any of them sees: what
it costs grows with the length of a prompt, not with that of a row. In the last layer only scored
nodes are queries, and only they go on through the MLP.
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
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

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


def nodes_at(x: Shaped[Array, "R N ..."], nodes: Int[Array, "R ..."]) -> Shaped[Array, "R ..."]:
    """Returns what x holds for chosen nodes of each row."""
    return jax.vmap(lambda x, nodes: x[nodes])(x, nodes)


@dataclass(frozen=True)
class Sight:
    """What G groups of Q nodes attend to.

    Attributes:
      keys: the nodes that a group looks at; -1 is none.
      mask: [r, g, q, a]: key a is node q of the group itself or an ancestor of it.
    """

    keys: Int[Array, "R G A"]
    mask: Bool[Array, "R G Q A"]

    @classmethod
    def of(
        cls,
        queries: Int[Array, "R G Q"],
        keys: Int[Array, "R G A"],
        tin: Int[Array, "R N"],
        tout: Int[Array, "R N"],
    ) -> "Sight":
        """Finds the ancestors among the keys: tin[k] <= tin[q] < tout[k]."""
        query = nodes_at(tin, queries)[:, :, :, None]
        start, end = (nodes_at(part, keys)[:, :, None, :] for part in (tin, tout))
        return cls(keys, (keys[:, :, None, :] >= 0) & (start <= query) & (query < end))


def attend(
    q: Float[Array, "R M H channels"],
    k: Float[Array, "R N KV channels"],
    v: Float[Array, "R N KV channels"],
    sight: Sight,
) -> Float[Array, "R M H channels"]:
    """Returns what M = G * Q queries gather: grouped-query attention, softmax in float32.

    One matmul a group and key head, of all its query heads: XLA runs those faster on CPU than
    the ones of `jax.nn.dot_product_attention`.
    """
    rows, groups, queries, seen = sight.mask.shape
    heads, channels = k.shape[2:]
    q_of = q.reshape(rows, groups, queries, heads, -1, channels).transpose(0, 1, 3, 4, 2, 5)
    q_of = q_of.reshape(rows, groups, heads, -1, channels)
    k, v = (nodes_at(part, sight.keys).transpose(0, 1, 3, 2, 4) for part in (k, v))
    scores = jnp.einsum("rghqc,rghac->rghqa", q_of, k, preferred_element_type=jnp.float32)
    scores = scores.reshape(rows, groups, heads, -1, queries, seen) * channels**-0.5
    weights = jax.nn.softmax(jnp.where(sight.mask[:, :, None, None], scores, -jnp.inf), axis=-1)
    weights = weights.astype(v.dtype).reshape(rows, groups, heads, -1, seen)
    found = jnp.einsum("rghqa,rghac->rghqc", weights, v)
    found = found.reshape(rows, groups, heads, -1, queries, channels).transpose(0, 1, 4, 2, 3, 5)
    return found.reshape(q.shape)


def turns(angle: Float[Array, "R N half"]) -> Float[Array, "R N 2 half"]:
    """Returns the angle's cosine and sine."""
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=2)


def rotate(
    x: Float[Array, "R N heads channels"], turn: Float[Array, "R N 2 half"]
) -> Float[Array, "R N heads channels"]:
    """Rotates channel i with channel i + half (RoPE, Hugging Face order)."""
    cos, sin = turn[:, :, None, 0], turn[:, :, None, 1]
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
        turn: Float[Array, "R N 2 half"],
        sight: Sight,
        key: Key[Array, ""] | None,
        queries: Int[Array, "R M"] | None = None,
    ) -> Float[Array, "R M D"]:
        """Returns the residual stream after this layer, of all nodes or those of `queries`."""
        h = self.input_norm(x)
        k = checkpoint_name(rotate(self._heads(self.k_proj(h, key)), turn), "k")
        v = checkpoint_name(self._heads(self.v_proj(h, key)), "v")
        if queries is not None:
            x, h, turn = (nodes_at(part, queries) for part in (x, h, turn))
        q = checkpoint_name(rotate(self._heads(self.q_proj(h, key)), turn), "q")
        attention = attend(q, k, v, sight).reshape(*x.shape[:2], -1)
        attention = checkpoint_name(attention, "attention")
        x = checkpoint_name(x + self.o_proj(attention, key), "residual")
        h = self.mlp_norm(x)
        gate = checkpoint_name(self.gate_proj(h, key), "gate")
        up = checkpoint_name(self.up_proj(h, key), "up")
        return x + self.down_proj(jax.nn.silu(gate) * up, key)

    def _heads(self, x: Float[Array, "R N features"]) -> Float[Array, "R N heads channels"]:
        return x.reshape(*x.shape[:2], -1, self.head_dim)


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
        stems: Int[Array, "R B A"],
        scored: Int[Array, "R S"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "R S D"]:
        """Returns the normalised last hidden state of the scored nodes.

        Args:
          tokens: token id of each node.
          depth: its distance from the root, which is its RoPE position.
          tin: its place in depth-first order.
          tout: one past the place of its last descendant.
          stems: the nodes that a block's nodes may see outside the block, -1 as padding; a single
            block sees all there is to see without any.
          scored: which nodes are asked for.
          key: for LoRA dropout; None turns it off.
        """
        frequencies = jnp.asarray(rope_frequencies(self.config))
        turn = turns(depth[:, :, None].astype(jnp.float32) * frequencies[None, None, :])
        rows, blocks, _ = stems.shape
        nodes = jnp.arange(tokens.shape[1]).reshape(1, blocks, -1)
        nodes = jnp.broadcast_to(nodes, (rows, *nodes.shape[1:]))
        keys = jnp.concatenate([stems, nodes], axis=2)
        of_all = Sight.of(nodes, keys, tin, tout)
        of_scored = Sight.of(
            scored[:, :, None], nodes_at(keys, scored // nodes.shape[2]), tin, tout
        )

        block, stacked = nnx.split(self.layers)
        last = self.config.num_layers - 1
        dropout = None if key is None else jax.random.split(key, last + 1)

        def layer(number: Int[Array, ""] | int) -> tuple[Block, Key[Array, ""] | None]:
            own = jax.tree.map(
                lambda leaf: jax.lax.dynamic_index_in_dim(leaf, number, keepdims=False),
                (stacked, dropout),
            )
            return nnx.merge(block, own[0]), own[1]

        @partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names(*SAVED))
        def step(
            x: Float[Array, "R N D"], number: Int[Array, ""]
        ) -> tuple[Float[Array, "R N D"], None]:
            layer_of, key = layer(number)
            return layer_of(x, turn, of_all, key), None

        x, _ = jax.lax.scan(step, self.embedding[...][tokens], jnp.arange(last))
        last_layer, key = layer(last)
        return self.norm(last_layer(x, turn, of_scored, key, scored))

    def logits(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Returns unnormalised log-probabilities of the next token, in float32."""
        head = self.embedding if self.head is None else self.head
        return jnp.einsum("...d,vd->...v", hidden, head[...], preferred_element_type=jnp.float32)
