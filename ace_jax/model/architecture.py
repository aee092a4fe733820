"""The architecture of a model, read from config.json. Each model family is a row of one table.

Rotary position embeddings (Su et al., 2021): channels i and i + half of a head rotate together by
`position * frequency[i]` radians. This is the channel order of Hugging Face.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ace_jax.errors import InputError, check_known
from ace_jax.files import reason
from ace_jax.model.lora import ATTENTION_TARGETS, MLP_TARGETS

# The largest value of each size in config.json, far beyond any model. Shapes and names are made
# from these sizes long before a weight is read, so a huge one would fill the memory.
LARGEST = {
    "vocab_size": 1 << 24,
    "hidden_size": 1 << 20,
    "intermediate_size": 1 << 22,
    "num_hidden_layers": 1 << 12,
    "num_attention_heads": 1 << 14,
    "num_key_value_heads": 1 << 14,
    "head_dim": 1 << 14,
    "sliding_window": 1 << 40,
}


@dataclass(frozen=True)
class Family:
    """The features in which model families differ."""

    biases: tuple[str, ...] = ()  # projections that always have a bias
    # Flag of config.json -> projections that have a bias if the flag is set.
    optional_biases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    qk_norm: bool = False  # whether queries and keys are normalised before they are rotated
    window_flag: str | None = None  # turns `sliding_window` on; None if the number alone does
    window: int | None = None  # if config.json does not say
    head_dim: int | None = None  # if config.json has no number; None means hidden_size / heads
    llama_cpp: str = "llama"  # what llama.cpp calls it


FAMILIES = {
    "LlamaForCausalLM": Family(
        optional_biases={"attention_bias": ATTENTION_TARGETS, "mlp_bias": MLP_TARGETS}
    ),
    "MistralForCausalLM": Family(window=4096),
    "Qwen2ForCausalLM": Family(
        biases=("q_proj", "k_proj", "v_proj"),
        window_flag="use_sliding_window",
        llama_cpp="qwen2",
    ),
    "Qwen3ForCausalLM": Family(
        optional_biases={"attention_bias": ATTENTION_TARGETS},
        qk_norm=True,
        window_flag="use_sliding_window",
        head_dim=128,
        llama_cpp="qwen3",
    ),
}

ORIGINAL_LENGTH = "original_max_position_embeddings"
# The keys of each kind of RoPE, those of `default` in every kind. transformers ignores others.
ROPE_KEYS = {
    "default": {"rope_type", "type", "rope_theta", "partial_rotary_factor"},
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", ORIGINAL_LENGTH},
    "yarn": {"factor", "attention_factor", "beta_fast", "beta_slow", "truncate", ORIGINAL_LENGTH},
}


@dataclass(frozen=True)
class Rope:
    """How the channels of queries and keys rotate with their position."""

    theta: float  # base of the geometric series of frequencies
    factors: tuple[float, ...] | None = None  # divisor of each frequency; None means 1
    scale: float = 1.0  # factor on cosines and sines (YaRN's attention factor)

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], head_dim: int) -> "Rope":
        """Reads the RoPE fields of a config.json; raises as `LlamaConfig.from_hf` catches it."""
        # transformers 5 writes rope_parameters, older versions rope_scaling.
        written = [config[name] for name in ("rope_parameters", "rope_scaling") if config.get(name)]
        first, *others = [cls._read(rope, config, head_dim) for rope in written or [{}]]
        if others and others != [first]:
            raise InputError("rope_parameters and rope_scaling contradict each other; leave one")
        return first

    @classmethod
    def _read(cls, rope: dict[str, Any], config: Mapping[str, Any], head_dim: int) -> "Rope":
        # Older configs (Llama 2) do not have the base; they mean the default of transformers.
        theta = float(_agreed("rope_theta", rope, config, 10000.0))
        if (partial := _agreed("partial_rotary_factor", rope, config, 1.0)) != 1:
            raise InputError(f"partial_rotary_factor {partial} is not supported")
        kind = _agreed("rope_type", rope, {"rope_type": rope.get("type")}, "default")
        if kind not in ROPE_KEYS:
            raise InputError(f"rope type {kind!r} is not supported")
        if unread := rope.keys() - ROPE_KEYS[kind] - ROPE_KEYS["default"]:
            raise InputError(f"rope type {kind!r} does not read {min(unread)!r}; take it out")
        if rope.get("factor", 1.0) < 1:
            raise InputError(f"the factor of RoPE, {rope['factor']!r}, is below 1")
        if original := _agreed(ORIGINAL_LENGTH, rope, config):
            rope = rope | {ORIGINAL_LENGTH: original}
        if kind == "default":
            return cls(theta)
        if kind == "linear":
            return cls(theta, (float(rope["factor"]),) * (head_dim // 2))
        if kind == "llama3":
            return cls(theta, _llama3(rope, _series(theta, head_dim)))
        scale = rope.get("attention_factor")
        scale = 0.1 * math.log(rope["factor"]) + 1.0 if scale is None else float(scale)
        return cls(theta, _yarn(rope, theta, head_dim), scale)

    def frequencies(self, head_dim: int) -> Float[np.ndarray, "half"]:
        """Returns the rotation of each pair of channels, in radians per position."""
        factors = 1.0 if self.factors is None else np.asarray(self.factors)
        return np.asarray(_series(self.theta, head_dim) / factors, np.float32)

    def rotation(
        self, position: Float[Array, "R N"], head_dim: int
    ) -> Float[Array, "R N 2 {head_dim}//2"]:
        """Returns the cosines and the sines of every node's angles."""
        angle = position[:, :, None] * jnp.asarray(self.frequencies(head_dim))[None, None, :]
        return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=2) * self.scale


def rotate(
    x: Float[Array, "R N heads channels"], rotation: Float[Array, "R N 2 half"]
) -> Float[Array, "R N heads channels"]:
    """Rotates channel i with channel i + half."""
    cos, sin = rotation[:, :, None, 0], rotation[:, :, None, 1]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)


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
    biases: tuple[str, ...] = ()  # projections with a bias
    qk_norm: bool = False
    window: int | None = None  # of some layer, in tokens; longer prompts are refused
    llama_cpp: str = "llama"  # what llama.cpp calls the family

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], where: str = "config.json") -> "LlamaConfig":
        """Reads the fields of a Hugging Face config.json, whose author may be careless or hostile.

        Raises `InputError`, beginning with `where`, for an unsupported architecture, rope type or
        activation, and for a field that is missing or has a value that no model has.
        """
        try:
            return cls._read(config)
        except KeyError as missing:
            why = f"{missing} is missing"
        except InputError as error:
            why = str(error)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            why = f"a field has an impossible value ({reason(error)})"
        raise InputError(f"{where}: {why}")

    @classmethod
    def _read(cls, config: Mapping[str, Any]) -> "LlamaConfig":
        family = _family(config)
        for name, largest in LARGEST.items():
            size = config.get(name)
            # The family decides whether a field may be missing or null.
            if size is not None and not (type(size) is int and 0 < size <= largest):
                raise InputError(f"{name} is {size!r:.40}, not a whole number from 1 to {largest}")
        tied = config.get("tie_word_embeddings", False)
        if not isinstance(tied, bool):
            raise InputError(f"tie_word_embeddings is {tied!r:.40}, not true or false")
        if config.get("hidden_act", "silu") != "silu":
            raise InputError(f"hidden_act {config['hidden_act']!r} is not supported")
        if config.get("quantization_config"):
            raise InputError("quantization_config is set; take the model that is not quantised")
        unknown = set(config.get("layer_types") or ()) - {"full_attention", "sliding_attention"}
        if unknown:
            raise InputError(f"layer_types with {min(unknown)!r:.40} are not supported")
        optional = family.optional_biases
        for flag in ("attention_bias", "mlp_bias"):
            if config.get(flag) and flag not in optional:
                raise InputError(f"{flag} is not supported")
        biases = [name for flag in optional if config.get(flag) for name in optional[flag]]
        windowed = family.window_flag is None or config.get(family.window_flag)
        heads = config["num_attention_heads"]
        kv_heads = config.get("num_key_value_heads") or heads
        head_dim = config.get("head_dim") or family.head_dim or config["hidden_size"] // heads
        if head_dim % 2 or heads % kv_heads:
            raise InputError(
                f"{heads} heads of {head_dim} channels cannot be rotated or share {kv_heads} keys"
            )
        epsilon, rope = float(config["rms_norm_eps"]), Rope.from_hf(config, head_dim)
        for number in (epsilon, rope.theta, rope.scale, *(rope.factors or ())):
            if not 0 < number < math.inf:
                raise InputError(f"the norms or RoPE use {number!r:.40}, not a positive number")
        return cls(
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            num_layers=config["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            rms_norm_eps=epsilon,
            rope=rope,
            tie_word_embeddings=tied,
            biases=(*family.biases, *biases),
            qk_norm=family.qk_norm,
            window=config.get("sliding_window", family.window) if windowed else None,
            llama_cpp=family.llama_cpp,
        )


def architecture_of(model_type: str) -> str:
    """Returns llama -> LlamaForCausalLM, as config.json names the two."""
    return f"{model_type.capitalize()}ForCausalLM"


def base_dtype(name: str) -> jnp.dtype:
    """Returns the dtype that `model.dtype` names; raises `InputError` for an unsupported one."""
    check_known(name, ("bfloat16", "float32"), "model.dtype")
    return jnp.dtype(name)


def _family(config: Mapping[str, Any]) -> Family:
    kind = config.get("model_type")
    named = (config.get("architectures") or [architecture_of(kind or "unknown")])[0]
    if named not in FAMILIES:
        raise InputError(f"architecture {named!r} is not supported; {', '.join(FAMILIES)} are")
    if kind and architecture_of(kind) != named:
        raise InputError(f"model_type {kind!r} contradicts the architecture {named!r}")
    return FAMILIES[named]


def _agreed(
    name: str, one: Mapping[str, Any], other: Mapping[str, Any], usual: object = None
) -> Any:
    # What may be written in two places, or in neither.
    found = {each[name] for each in (one, other) if each.get(name) is not None}
    if len(found) > 1:
        both = " and ".join(f"{each:.40}" for each in sorted(map(repr, found)))
        raise InputError(f"{name} is both {both}; leave one")
    return found.pop() if found else usual


def _series(theta: float, head_dim: int) -> Float[np.ndarray, "half"]:
    # theta ** (-2i / head_dim) in float32, the precision that models are trained with.
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    return 1 / np.float32(theta) ** exponent


def _llama3(rope: Mapping[str, Any], frequencies: Float[np.ndarray, "half"]) -> tuple[float, ...]:
    # Frequencies with fewer than `low` rotations in the original context are divided by `factor`.
    # Those with more than `high` rotations stay. Those in between are interpolated.
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    if not low < high:
        raise InputError(f"low_freq_factor {low!r} is not below high_freq_factor {high!r}")
    times = rope[ORIGINAL_LENGTH] * frequencies / (2 * math.pi)
    keep = np.clip((times - low) / (high - low), 0, 1)
    return _mixed(keep, float(rope["factor"]))


def _yarn(rope: Mapping[str, Any], theta: float, head_dim: int) -> tuple[float, ...]:
    """YaRN (Peng et al., 2023) interpolates over channels instead of frequencies."""
    original = rope[ORIGINAL_LENGTH]

    def channel(times: float) -> float:
        # The channel with this many rotations in the original context.
        return head_dim * math.log(original / (times * 2 * math.pi)) / (2 * math.log(theta))

    first = channel(float(rope.get("beta_fast") or 32))
    last = channel(float(rope.get("beta_slow") or 1))
    if rope.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    width = last - first or 0.001
    stretched = np.clip((np.arange(head_dim // 2, dtype=np.float32) - first) / width, 0, 1)
    return _mixed(1 - stretched, float(rope["factor"]))


def _mixed(keep: Float[np.ndarray, "half"], factor: float) -> tuple[float, ...]:
    return tuple((1 / (keep + (1 - keep) / factor)).tolist())
