"""Rotary position embeddings (Su et al., 2021) and their extensions to longer contexts.

Channels i and i + half of a head rotate together by `position * frequency[i]` radians. This is the
channel order of Hugging Face.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ace_jax.errors import InputError


@dataclass(frozen=True)
class Rope:
    """How the channels of queries and keys rotate with their position.

    Attributes:
      theta: base of the geometric series of frequencies.
      factors: divisor of each frequency; None means 1.
      scale: factor on cosines and sines (YaRN's attention factor).
    """

    theta: float
    factors: tuple[float, ...] | None = None
    scale: float = 1.0

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], head_dim: int) -> "Rope":
        """Reads the RoPE fields of a Hugging Face config.json.

        Raises `InputError` for an unknown type and `KeyError` for a missing field.
        """
        # transformers 5 writes rope_theta inside rope_parameters, older versions at the top level.
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if not isinstance(rope, Mapping):
            raise InputError(f"config.json: rope_scaling {rope!r} is not a table")
        # Older configs (Llama 2) do not have the key; they mean the default of transformers.
        theta = float(rope.get("rope_theta", config.get("rope_theta", 10000.0)))
        partial = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
        if partial != 1.0:
            raise InputError(f"config.json: partial_rotary_factor {partial} is not supported")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind == "default":
            return cls(theta)
        if kind == "linear":
            return cls(theta, (float(rope["factor"]),) * (head_dim // 2))
        if kind == "llama3":
            return cls(theta, _llama3(rope, series(theta, head_dim)))
        if kind == "yarn":
            return cls(theta, _yarn(rope, theta, head_dim), _yarn_scale(rope))
        raise InputError(f"config.json: rope type {kind!r} is not supported")

    def frequencies(self, head_dim: int) -> Float[np.ndarray, "half"]:
        """Returns the rotation of each pair of channels, in radians per position."""
        factors = 1.0 if self.factors is None else np.asarray(self.factors)
        return np.asarray(series(self.theta, head_dim) / factors, np.float32)

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


def series(theta: float, head_dim: int) -> Float[np.ndarray, "half"]:
    """Returns theta ** (-2i / head_dim) in float32, the precision that models are trained with."""
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    return 1 / np.float32(theta) ** exponent


def _llama3(rope: Mapping[str, Any], frequencies: Float[np.ndarray, "half"]) -> tuple[float, ...]:
    # Frequencies with fewer than `low` rotations in the original context are divided by `factor`.
    # Those with more than `high` rotations stay. Those in between are interpolated.
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    times = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    keep = np.clip((times - low) / (high - low), 0, 1)
    return _mixed(keep, float(rope["factor"]))


def _yarn(rope: Mapping[str, Any], theta: float, head_dim: int) -> tuple[float, ...]:
    """YaRN (Peng et al., 2023) interpolates over channels instead of frequencies."""
    original = rope["original_max_position_embeddings"]

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


def _yarn_scale(rope: Mapping[str, Any]) -> float:
    def scale(weight: float) -> float:
        factor = float(rope["factor"])
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return scale(float(rope["mscale"])) / scale(float(rope["mscale_all_dim"]))
    return scale(1.0)
