"""Model cards: the README.md beside every export, with the hub's metadata on top.

The texts are the templates `*_card.md.j2` in this directory.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ace_jax import __version__
from ace_jax.model.formats.hub import is_hub_id
from ace_jax.model.formats.peft import BaseModel
from ace_jax.model.lora import LoRAConfig

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def adapter_card(base: BaseModel, lora: LoRAConfig, facts: Mapping[str, str]) -> str:
    """Returns the README of a PEFT directory; `facts` are on its training, a line each."""
    # transformers reads neither a GGUF file nor a built-in name.
    in_transformers = "/" in base.name and not base.name.endswith(".gguf")
    data = ModelCardData(library_name="peft", tags=["lora", "ace-align", "survey"])
    own = {"facts": facts, "in_transformers": in_transformers}
    return _render("adapter_card", data, base, lora=lora, **own)


def checkpoint_card(
    base: BaseModel, dtypes: Sequence[str], adapter: str | None, lora: LoRAConfig | None
) -> str:
    """Returns the README of a checkpoint in `dtypes`, into which an adapter may be merged."""
    tags = ["ace-align", "survey"] if lora else None
    data = ModelCardData(library_name="transformers", tags=tags)
    return _render("checkpoint_card", data, base, lora=lora, dtypes=dtypes, adapter=adapter)


def _render(name: str, data: ModelCardData, base: BaseModel, **fields: Any) -> str:
    # The hub links to the base model by its id; a local path would be a dead link.
    if is_hub_id(base.name) and not Path(base.name).exists():
        data.base_model = base.name
    data.pipeline_tag = "text-generation"
    template = TEMPLATES.get_template(f"{name}.md.j2")
    body = template.render(fields, base=base, version=__version__)
    return f"---\n{data.to_yaml()}\n---\n\n{body}"
