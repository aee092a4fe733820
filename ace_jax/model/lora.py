"""Low-rank adaptation (Hu et al., 2022) of a frozen linear layer.

A layer with kernel W [in, out] becomes  x W + (alpha / rank) * drop(x) A B  with A [in, rank]
and B [rank, out] trained in float32 and W frozen. A starts uniform, B at zero, as in PEFT, so
an untrained adapter changes nothing.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from ace_jax.errors import InputError, check_positive

ATTENTION_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_TARGETS = ("gate_proj", "up_proj", "down_proj")
TARGETS = ATTENTION_TARGETS + MLP_TARGETS


@dataclass(frozen=True)
class LoRAConfig:
    """What is adapted, and how strongly.

    Raises `InputError` for values that no adapter can have.
    """

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]

    def __post_init__(self) -> None:
        unknown = [target for target in self.targets if target not in TARGETS]
        if unknown or not self.targets:
            raise InputError(
                f"lora.targets: {', '.join(map(repr, unknown)) or 'empty'}; "
                f"choose from {', '.join(TARGETS)}"
            )
        check_positive("lora.rank", self.rank)
        if not 0 <= self.dropout < 1:
            raise InputError(f"lora.dropout: {self.dropout} is not in [0, 1)")

    @property
    def scale(self) -> float:
        """The factor alpha / rank on the low-rank product."""
        return self.alpha / self.rank


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
        """Returns the branch's contribution in x's dtype; dropout on x where a key is given."""
        if key is not None and self.dropout > 0:
            keep = jax.random.bernoulli(key, 1 - self.dropout, x.shape)
            x = jnp.where(keep, x / (1 - self.dropout), 0)
        return (x @ self.a[...].astype(x.dtype)) @ self.b[...].astype(x.dtype) * self.scale
