"""LLaMA over trie rows: a node attends to its ancestors, and its depth is its position.

Shapes: R rows of N nodes in B blocks, S scored nodes a row, width D, H query heads, V vocabulary. A
plain left-to-right sequence is a trie without branches. Layers are stacked on a leading axis.

In the last layer only the scored nodes are queries, and only they pass through the MLP.
All constants come from the checkpoint's config.json (`architecture.py`).
"""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int, Key

from ace_jax.errors import check_known
from ace_jax.model.architecture import LlamaConfig, rotate
from ace_jax.model.lora import TARGETS, LoRA, LoRAConfig
from ace_jax.model.quantization import quantized, widen
from ace_jax.model.sharding import gather_layer, spread_rows
from ace_jax.model.tree_attention import ATTENTION, VisibleBlocks, VisibleKeys, nodes_at

FLOAT32 = jnp.dtype("float32")
# What a layer keeps for the backward pass, by `model.remat`. The rest is computed again. `full`
# needs the least memory and a third more computation. What `matmuls` recomputes is cheap:
# attention scores, norms and the gated product.
REMAT = {
    "none": jax.checkpoint_policies.everything_saveable,
    "matmuls": jax.checkpoint_policies.save_only_these_names(
        "q", "k", "v", "attention", "residual", "gate", "up"
    ),
    "full": jax.checkpoint_policies.nothing_saveable,
}


class RMSNorm(nnx.Module):
    """Root-mean-square normalisation, computed in float32."""

    def __init__(self, features: int, eps: float, dtype: jnp.dtype):
        self.scale = nnx.Param(jnp.ones((features,), dtype))
        self.eps = eps

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """Returns x at unit root mean square, times the learned scale."""
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + self.eps)
        return _over_last(self.scale[...], x.ndim) * wide.astype(x.dtype)


def _over_last(x: Float[Array, "D"], ndim: int) -> Float[Array, "..."]:
    return x.reshape((1,) * (ndim - 1) + x.shape)


class Linear(nnx.Module):
    """A frozen kernel [in, out], with a bias if the model has one, and LoRA if it is a target."""

    def __init__(
        self,
        name: str,
        inputs: int,
        outputs: int,
        config: LlamaConfig,
        lora: LoRAConfig | None,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(
            nnx.initializers.lecun_normal()(rngs.params(), (inputs, outputs), dtype)
        )
        biased = name in config.biases
        self.bias = nnx.Param(jnp.zeros((outputs,), dtype)) if biased else None
        adapted = lora is not None and name in lora.targets
        self.lora = LoRA(inputs, outputs, lora, rngs) if lora and adapted else None
        # The linear layers of a block draw different dropout masks from the block's key.
        self.stream = TARGETS.index(name)

    def __call__(
        self, x: Float[Array, "R N inputs"], key: Key[Array, ""] | None
    ) -> Float[Array, "R N outputs"]:
        """Returns x W, plus the bias, plus the LoRA branch."""
        y = x @ widen(self.kernel.get_value())
        if self.bias is not None:
            y = y + _over_last(self.bias[...], y.ndim)
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
        linear = partial(Linear, config=config, lora=lora, dtype=dtype, rngs=rngs)
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
        norm = partial(RMSNorm, config.head_dim, config.rms_norm_eps, dtype)
        self.q_norm = norm() if config.qk_norm else None
        self.k_norm = norm() if config.qk_norm else None

    def __call__(
        self,
        x: Float[Array, "R N D"],
        rotation: Float[Array, "R N 2 half"],
        visible: VisibleKeys | VisibleBlocks,
        key: Key[Array, ""] | None,
        queries: Int[Array, "R M"] | None = None,
    ) -> Float[Array, "R M D"]:
        """Returns the residual stream after this layer, for all nodes or only for `queries`."""
        h = self.input_norm(x)
        k = self._heads(self.k_proj(h, key))
        k = checkpoint_name(rotate(k if self.k_norm is None else self.k_norm(k), rotation), "k")
        v = checkpoint_name(self._heads(self.v_proj(h, key)), "v")
        if queries is not None:
            x, h, rotation = (nodes_at(part, queries) for part in (x, h, rotation))
        q = self._heads(self.q_proj(h, key))
        q = checkpoint_name(rotate(q if self.q_norm is None else self.q_norm(q), rotation), "q")
        attention = visible.attend(q, k, v).reshape(*x.shape[:2], -1)
        x = checkpoint_name(x + self.o_proj(attention, key), "residual")
        h = self.mlp_norm(x)
        gate = checkpoint_name(self.gate_proj(h, key), "gate")
        up = checkpoint_name(self.up_proj(h, key), "up")
        return x + self.down_proj(jax.nn.silu(gate) * up, key)

    def _heads(self, x: Float[Array, "R N features"]) -> Float[Array, "R N heads channels"]:
        return x.reshape(*x.shape[:2], -1, self.head_dim)


class Llama(nnx.Module):
    """The decoder. The base is `nnx.Param` in `dtype`, the adapter `nnx.LoRAParam` in float32."""

    def __init__(
        self,
        config: LlamaConfig,
        lora: LoRAConfig | None,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        remat: str = "matmuls",
        attention: str = "xla",
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
        self.remat = remat
        self.attention = attention

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
        """Returns the last hidden state of the scored nodes, normalised.

        The arrays are those of `prompts.batches.Scoring`; `depth` is the RoPE position. Without
        `key`, LoRA dropout is off.
        """
        rotation = self.config.rope.rotation(depth.astype(jnp.float32), self.config.head_dim)
        visible_to_all, visible_to_scored = self._visible(tin, tout, stems, scored)

        block, stacked = nnx.split(self.layers)
        last = self.config.num_layers - 1
        dropout = None if key is None else jax.random.split(key, last + 1)

        def layer(number: Int[Array, ""] | int) -> tuple[Block, Key[Array, ""] | None]:
            weights, layer_key = jax.tree.map(
                lambda leaf: jax.lax.dynamic_index_in_dim(leaf, number, keepdims=False),
                (stacked, dropout),
            )
            return nnx.merge(block, gather_layer(weights)), layer_key

        @partial(jax.checkpoint, policy=REMAT[self.remat])
        def step(
            x: Float[Array, "R N D"], number: Int[Array, ""]
        ) -> tuple[Float[Array, "R N D"], None]:
            layer_at, key = layer(number)
            return spread_rows(layer_at(x, rotation, visible_to_all, key)), None

        x = spread_rows(self.embedding[...][tokens])
        x, _ = jax.lax.scan(step, x, jnp.arange(last))
        last_layer, key = layer(last)
        return self.norm(spread_rows(last_layer(x, rotation, visible_to_scored, key, scored)))

    def _visible(
        self,
        tin: Int[Array, "R N"],
        tout: Int[Array, "R N"],
        stems: Int[Array, "R B A"],
        scored: Int[Array, "R S"],
    ) -> tuple[VisibleKeys, VisibleKeys] | tuple[VisibleBlocks, VisibleBlocks]:
        """Returns what all nodes attend to, and what the scored ones do."""
        nodes = jnp.broadcast_to(jnp.arange(tin.shape[1], dtype=tin.dtype)[None], tin.shape)
        if self.attention != "xla":
            interpret = self.attention == "interpret"
            of_all, of_scored = (VisibleBlocks.find(q, tout, interpret) for q in (nodes, scored))
            return of_all, of_scored
        blocks = nodes.reshape(*stems.shape[:2], -1)
        keys = jnp.concatenate([stems, blocks], axis=2)
        of_block = nodes_at(keys, scored // blocks.shape[2])
        return (
            VisibleKeys.find(blocks, keys, tin, tout),
            VisibleKeys.find(scored[:, :, None], of_block, tin, tout),
        )

    def logits(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Returns unnormalised log-probabilities of the next token, in float32."""
        head = self.embedding if self.head is None else self.head
        return jnp.einsum("...d,vd->...v", hidden, head[...], preferred_element_type=jnp.float32)


@dataclass(frozen=True)
class AbstractModel:
    """A model without its arrays: shapes and dtypes, which take no memory."""

    graph: nnx.GraphDef
    lora: nnx.State  # the trainable parameters
    base: nnx.State  # the frozen parameters


def abstract_model(
    config: LlamaConfig,
    lora: LoRAConfig | None = None,
    dtype: jnp.dtype = FLOAT32,
    remat: str = "matmuls",
    quantization: str = "none",
    attention: str = "xla",
) -> AbstractModel:
    """Returns the model's structure and shapes; `dtype` is that of the frozen parameters.

    Raises `InputError` where `attention`, `remat` or `quantization` is unknown.
    """
    check_known(attention, ATTENTION, "model.attention")
    check_known(remat, REMAT, "model.remat")
    model = nnx.eval_shape(lambda: Llama(config, lora, dtype, nnx.Rngs(0), remat, attention))
    whole = AbstractModel(*nnx.split(model, nnx.LoRAParam, ...))
    return replace(whole, base=quantized(whole.base, quantization))
