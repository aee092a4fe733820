"""Bounds on what a checkpoint says about itself: its author may be careless or hostile."""

import math
from collections.abc import Mapping
from typing import Any

from ace_jax.errors import InputError
from ace_jax.model.architecture import LlamaConfig

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


def check_sizes(fields: Mapping[str, Any], where: str) -> None:
    """Raises `InputError` for a size in a config.json that no model has."""
    for name, largest in LARGEST.items():
        size = fields.get(name)
        # The architecture decides whether a field may be missing or null.
        if size is not None and not (type(size) is int and 0 < size <= largest):
            raise InputError(
                f"{where}: {name} is {size!r:.40}, not a whole number from 1 to {largest}"
            )


def check_numbers(config: LlamaConfig, where: str) -> None:
    """Raises `InputError` where the norms or RoPE use a number that is not positive and finite."""
    rope = config.rope
    numbers = [("rms_norm_eps", config.rms_norm_eps), ("rope_theta", rope.theta)]
    numbers += [("rope's factor", number) for number in (rope.scale, *(rope.factors or ()))]
    for name, number in numbers:
        if not (isinstance(number, int | float) and 0 < number < math.inf):
            raise InputError(f"{where}: {name} is {number!r:.40}, not a positive number")
