"""Low-rank adaptation (Hu et al., 2022) of a frozen linear layer.

A layer with the frozen kernel W [in, out] becomes  x W + scale * dropout(x) A B. A [in, rank] and
B [rank, out] are trained in float32. The scale is alpha / rank, or alpha / sqrt(rank) if it is
rank-stabilised (Kalajdzievski, 2023). As in PEFT, A starts uniform and B at zero, so an untrained
adapter changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from ace_jax.errors import InputError, check_in, check_positive

ATTENTION_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_TARGETS = ("gate_proj", "up_proj", "down_proj")
TARGETS = ATTENTION_TARGETS + MLP_TARGETS
ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class LoRAConfig:
    """The shape and strength of an adapter. Raises `InputError` for an impossible value."""

    rank: int
    alpha: float
    dropout: float  # share of the adapter's inputs that training drops
    targets: tuple[str, ...]  # the adapted linear layers, from `TARGETS`
    rslora: bool = False  # whether the scale is rank-stabilised

    def __post_init__(self) -> None:
        unknown = [target for target in self.targets if target not in TARGETS]
        if unknown or not self.targets:
            raise InputError(
                f"lora.targets: {', '.join(map(repr, unknown)) or 'empty'}; "
                f"choose from {', '.join(TARGETS)} or {ALL_LINEAR}"
            )
        check_positive("lora.rank", self.rank)
        check_in("[0, 1)", lora__dropout=self.dropout)

    @property
    def scale(self) -> float:
        """The factor on the low-rank product: alpha / rank, or alpha / sqrt(rank)."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


def targets_of(names: str | Sequence[str]) -> tuple[str, ...]:
    """Returns the target layers by name; `all-linear` stands for all of them."""
    names = (names,) if isinstance(names, str) else tuple(names)
    return TARGETS if names == (ALL_LINEAR,) else names


class LoRA(nnx.Module):
    """The low-rank branch of one linear layer."""

    def __init__(self, in_features: int, out_features: int, config: LoRAConfig, rngs: nnx.Rngs):
        # PEFT draws A from kaiming_uniform(a=sqrt(5)), which is U(-1/sqrt(in), 1/sqrt(in)).
        bound = in_features**-0.5
        a = jax.random.uniform(
            rngs.params(), (in_features, config.rank), jnp.float32, -bound, bound
        )
        self.a = nnx.LoRAParam(a)
        self.b = nnx.LoRAParam(jnp.zeros((config.rank, out_features), jnp.float32))
        self.scale = config.scale
        self.dropout = config.dropout

    def __call__(
        self, x: Float[Array, "*batch inputs"], key: Key[Array, ""] | None
    ) -> Float[Array, "*batch outputs"]:
        """Returns what the adapter adds, in x's dtype; with a key, dropout applies to x."""
        if key is not None and self.dropout > 0:
            keep = jax.random.bernoulli(key, 1 - self.dropout, x.shape)
            x = jnp.where(keep, x / (1 - self.dropout), 0)
        return product(product(x, self.a[...]), self.b[...]) * self.scale


@jax.custom_vjp
def product(
    x: Float[Array, "*batch inputs"], weight: Float[Array, "inputs outputs"]
) -> Float[Array, "*batch outputs"]:
    """Returns x @ weight in x's dtype, but sums the weight's gradient in float32.

    Otherwise a bfloat16 model would round the adapter's gradient before devices add their parts.
    """
    return x @ weight.astype(x.dtype)


def _forward(
    x: Float[Array, "*batch inputs"], weight: Float[Array, "inputs outputs"]
) -> tuple[Float[Array, "*batch outputs"], tuple[Array, Array]]:
    return product(x, weight), (x, weight)


def _backward(
    saved: tuple[Array, Array], y: Float[Array, "*batch outputs"]
) -> tuple[Float[Array, "*batch inputs"], Float[Array, "inputs outputs"]]:
    x, weight = saved
    gradient = jnp.einsum("...i,...o->io", x, y, preferred_element_type=weight.dtype)
    return y @ weight.astype(y.dtype).T, gradient


product.defvjp(_forward, _backward)
