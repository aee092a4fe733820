"""The architecture of a model, read from config.json. Each model family is a row of one table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from ace_jax.errors import InputError
from ace_jax.model.lora import ATTENTION_TARGETS, MLP_TARGETS
from ace_jax.model.rope import Rope


@dataclass(frozen=True)
class Family:
    """The features in which model families differ.

    Attributes:
      biases: projections that always have a bias.
      optional_biases: flag of config.json -> projections that have a bias if the flag is set.
      qk_norm: whether queries and keys of each head are normalised before they are rotated.
      window_flag: the flag that turns `sliding_window` on; None if the number alone does.
      head_dim: channels of a head if config.json has no number; None means hidden_size / heads.
    """

    biases: tuple[str, ...] = ()
    optional_biases: Mapping[str, tuple[str, ...]] | None = None
    qk_norm: bool = False
    window_flag: str | None = None
    head_dim: int | None = None


FAMILIES = {
    "LlamaForCausalLM": Family(
        optional_biases={"attention_bias": ATTENTION_TARGETS, "mlp_bias": MLP_TARGETS}
    ),
    "MistralForCausalLM": Family(),
    "Qwen2ForCausalLM": Family(
        biases=("q_proj", "k_proj", "v_proj"), window_flag="use_sliding_window"
    ),
    "Qwen3ForCausalLM": Family(
        optional_biases={"attention_bias": ATTENTION_TARGETS},
        qk_norm=True,
        window_flag="use_sliding_window",
        head_dim=128,
    ),
}
MODEL_TYPES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


@dataclass(frozen=True)
class LlamaConfig:
    """The architecture in a checkpoint's config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: Rope
    tie_word_embeddings: bool
    biases: tuple[str, ...] = ()
    """Projections with a bias."""
    qk_norm: bool = False
    window: int | None = None
    """Sliding window of some layer, in tokens. Longer prompts are refused."""

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "LlamaConfig":
        """Reads a Hugging Face config.json.

        Raises `InputError` for an unsupported architecture, rope type or activation, and for a
        missing or impossible field.
        """
        family = _family(config)
        if config.get("hidden_act", "silu") != "silu":
            raise InputError(f"config.json: hidden_act {config['hidden_act']!r} is not supported")
        for flag in ("attention_bias", "mlp_bias"):
            if config.get(flag) and flag not in (family.optional_biases or {}):
                raise InputError(f"config.json: {flag} is not supported")
        optional = (family.optional_biases or {}).items()
        biases = [name for flag, names in optional if config.get(flag) for name in names]
        windowed = family.window_flag is None or config.get(family.window_flag)
        try:
            heads = config["num_attention_heads"]
            head_dim = config.get("head_dim") or family.head_dim or config["hidden_size"] // heads
            return cls(
                vocab_size=config["vocab_size"],
                hidden_size=config["hidden_size"],
                intermediate_size=config["intermediate_size"],
                num_layers=config["num_hidden_layers"],
                num_heads=heads,
                num_kv_heads=config.get("num_key_value_heads") or heads,
                head_dim=head_dim,
                rms_norm_eps=float(config["rms_norm_eps"]),
                rope=Rope.from_hf(config, head_dim),
                tie_word_embeddings=config.get("tie_word_embeddings", False),
                biases=(*family.biases, *biases),
                qk_norm=family.qk_norm,
                window=config.get("sliding_window") if windowed else None,
            )
        except KeyError as missing:
            raise InputError(f"config.json: {missing} is missing") from None
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise InputError(f"config.json: a field has an impossible value ({error})") from None


def _family(config: Mapping[str, Any]) -> Family:
    named = config.get("architectures") or [config.get("model_type", "unknown")]
    name = MODEL_TYPES.get(named[0], named[0])
    if name not in FAMILIES:
        raise InputError(
            f"config.json: architecture {named[0]!r} is not supported; {', '.join(FAMILIES)} are"
        )
    return FAMILIES[name]


def base_dtype(name: str) -> jnp.dtype:
    """Returns the dtype that `model.dtype` names.

    Raises `InputError` for any other than bfloat16 and float32.
    """
    if name not in ("bfloat16", "float32"):
        raise InputError(f"model.dtype: {name!r} is not bfloat16 or float32")
    return jnp.dtype(name)
