"""Model cards: the README.md beside every export, with the hub's metadata on top."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ace_jax import __version__
from ace_jax.model.formats.hub import is_hub_id
from ace_jax.model.formats.peft import BaseModel

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def card(name: str, base: BaseModel, **fields: Any) -> str:
    """Returns the README that `NAME_card.md.j2` makes of its fields.

    Those of `adapter` are `lora` and `facts` (on its training, a line each); those of `checkpoint`
    its `dtypes`, and `adapter` (name) and `lora` of what is merged into it, or None.
    """
    # The hub links to the base model by its id; a local path would be a dead link.
    hub_id = base.name if is_hub_id(base.name) and not Path(base.name).exists() else None
    # transformers reads neither a GGUF file nor a built-in name.
    in_transformers = "/" in base.name and not base.name.endswith(".gguf")
    known = {"hub_id": hub_id, "in_transformers": in_transformers, "version": __version__}
    return TEMPLATES.get_template(f"{name}_card.md.j2").render(fields, base=base, **known)
