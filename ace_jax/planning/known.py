"""What gated models are, for machines that cannot fetch their config.json."""

import json
from pathlib import Path

from ace_jax.errors import InputError
from ace_jax.model.architecture import LlamaConfig
from ace_jax.model.formats.hub import Description, describe

MODELS = Path(__file__).parent / "models"


def describe_for_plan(path: str) -> tuple[Description, str]:
    """Says what the model that `model.path` names is, and where that is known from.

    Raises `InputError` where it can be had neither from there nor from the package.
    """
    try:
        return describe(path), "its own config.json"
    except InputError:
        carried = MODELS / f"{path}.json"
        if not carried.is_file():
            raise
    architecture = LlamaConfig.from_hf(json.loads(carried.read_text()))
    return Description(path, architecture, None, None), (
        "the config.json that this package carries, as the model's own cannot be had here"
    )
