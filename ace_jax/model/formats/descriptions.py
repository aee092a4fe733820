"""Bounds on what a checkpoint says about itself: its author may be careless or hostile."""

import math
from collections.abc import Mapping
from typing import Any

from ace_jax.errors import InputError
from ace_jax.files import reason
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


def read_config(fields: Mapping[str, Any], where: str) -> LlamaConfig:
    """Reads the fields of a config.json.

    Raises `InputError`, beginning with `where`, for a value that no model has, and as
    `LlamaConfig.from_hf` does.
    """
    for name, largest in LARGEST.items():
        size = fields.get(name)
        # The architecture decides whether a field may be missing or null.
        if size is not None and not (type(size) is int and 0 < size <= largest):
            raise InputError(
                f"{where}: {name} is {size!r:.40}, not a whole number from 1 to {largest}"
            )
    tied = fields.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise InputError(f"{where}: tie_word_embeddings is {tied!r:.40}, not true or false")
    try:
        config = LlamaConfig.from_hf(fields)
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise InputError(f"{where}: a field has an impossible value ({reason(error)})") from None
    rope = config.rope
    for number in (config.rms_norm_eps, rope.theta, rope.scale, *(rope.factors or ())):
        if not (isinstance(number, int | float) and 0 < number < math.inf):
            raise InputError(
                f"{where}: the norms or RoPE use {number!r:.40}, not a positive number"
            )
    return config
