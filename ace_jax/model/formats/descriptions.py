"""What a checkpoint says of itself, read with the care that a stranger's file needs."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ace_jax.errors import InputError
from ace_jax.model.architecture import LlamaConfig

LONGEST = 200  # characters of another library's reason
# The most that a field of config.json may say, far beyond any model there is: a count is believed
# when shapes and names are made of it, long before the weights could bear it out.
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


def read_object(file: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises `FileNotFoundError` where there is no file, `InputError` where it holds anything else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not JSON ({reason(error)}); fetch it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: not a JSON object; fetch it again")
    return content


def check_sizes(fields: Mapping[str, Any], where: str) -> None:
    """Raises `InputError` for a size, among a config.json's fields, that no model has."""
    for name, largest in LARGEST.items():
        size = fields.get(name)
        # A field may be missing or null, which is the architecture's to judge.
        if size is not None and not (type(size) is int and 0 < size <= largest):
            raise InputError(
                f"{where}: {name} is {size!r:.40}, not a whole number from 1 to {largest}"
            )


def check_numbers(config: LlamaConfig, where: str) -> None:
    """Raises `InputError` where the norms or RoPE count with a number that is none."""
    rope = config.rope
    for name, number in (
        ("rms_norm_eps", config.rms_norm_eps),
        ("rope_theta", rope.theta),
        *(("rope's factor", number) for number in (rope.scale, *(rope.factors or ()))),
    ):
        if not (isinstance(number, int | float) and 0 < number < math.inf):
            raise InputError(f"{where}: {name} is {number!r:.40}, not a positive number")


def reason(error: BaseException) -> str:
    """Returns what an error of another library says, in one line and no more."""
    text = " ".join(str(error).split())
    return text[:LONGEST] or type(error).__name__
