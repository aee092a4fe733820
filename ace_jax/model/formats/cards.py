"""Model cards: the README.md beside every export, with the hub's metadata on top.

The texts are the templates `*_card.md.j2` in this directory.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ace_jax import __version__
from ace_jax.errors import InputError
from ace_jax.files import read_object, reason
from ace_jax.model.formats.hub import is_hub_id
from ace_jax.model.lora import LoRAConfig

METRIC = "alignment score"
COLUMNS = {"granularity": int, "n_cells": int, "score": float, "ci_low": float, "ci_high": float}
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


@dataclass(frozen=True)
class Scores:
    """What `evaluate` found.

    Attributes:
      data: name of the survey.
      split: the part of its cells that was scored.
      rows: one for each granularity: granularity, n_cells, score in [0, 1], ci_low, ci_high.
      adapter_sha256: of the adapter scored; None is the base model.
    """

    data: str
    split: str
    rows: list[dict[Hashable, Any]]
    adapter_sha256: str | None

    @classmethod
    def read(cls, directory: Path) -> "Scores":
        """Reads an OUT directory; raises `InputError` where it is none."""
        run = read_object(directory / "run.json", "an output of ace_jax.evaluate")
        try:
            table = pd.read_csv(directory / "scores.csv", keep_default_na=False, na_values=[""])
            table = table[table["country"] == "ALL"].astype(COLUMNS)
            adapter = run["adapter"]
            return cls(
                data=Path(run["data"]["path"]).name,
                split=str(run["data"]["split"]),
                rows=table[list(COLUMNS)].to_dict("records"),
                adapter_sha256=None if adapter is None else str(adapter["sha256"]),
            )
        except (ArithmeticError, OSError, LookupError, TypeError, ValueError) as error:
            raise InputError(
                f"{directory}: not an output of ace_jax.evaluate ({reason(error)})"
            ) from None


@dataclass(frozen=True)
class AdapterCard:
    """The README of a PEFT directory.

    Attributes:
      base_model: name of the base model.
      base_fingerprint: of its weights, where known.
      lora: shape of the adapter.
      facts: what is known about its training, one line each.
      scores: where it was evaluated.
    """

    base_model: str
    base_fingerprint: str | None
    lora: LoRAConfig
    facts: Mapping[str, str]
    scores: Scores | None = None

    def text(self) -> str:
        """Returns the card, metadata first."""
        data = _metadata(self.base_model, "peft", ["lora", "ace-align", "survey"], self.scores)
        # transformers reads neither a GGUF file nor a built-in name.
        in_transformers = "/" in self.base_model and not self.base_model.endswith(".gguf")
        return _render("adapter_card", data, vars(self), in_transformers=in_transformers)


@dataclass(frozen=True)
class CheckpointCard:
    """The README of a whole checkpoint.

    Attributes:
      base_model: name of the base model.
      base_fingerprint: of its weights.
      dtypes: of the weights written.
      adapter: name of the adapter that was merged, if any.
      lora: its shape.
    """

    base_model: str
    base_fingerprint: str
    dtypes: tuple[str, ...]
    adapter: str | None = None
    lora: LoRAConfig | None = None

    def text(self) -> str:
        """Returns the card, metadata first."""
        tags = ["ace-align", "survey"] if self.lora else []
        data = _metadata(self.base_model, "transformers", tags, None)
        return _render("checkpoint_card", data, vars(self))


def _render(name: str, data: ModelCardData, fields: Mapping[str, Any], **more: Any) -> str:
    body = TEMPLATES.get_template(f"{name}.md.j2").render(fields, version=__version__, **more)
    return f"---\n{data.to_yaml()}\n---\n\n{body}"


def _metadata(base: str, library: str, tags: list[str], scores: Scores | None) -> ModelCardData:
    return ModelCardData(
        # The hub links to the base model by its id; a local path would be a dead link.
        base_model=base if is_hub_id(base) and not Path(base).exists() else None,
        library_name=library,
        pipeline_tag="text-generation",
        tags=tags or None,
        model_name=f"ACE-Align {base}" if scores else None,
        eval_results=_results(scores) if scores else None,
    )


def _results(scores: Scores) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=scores.data,
            dataset_name=scores.data,
            dataset_split=scores.split,
            dataset_config=f"{row['granularity']} attribute(s) named",
            metric_type=METRIC.replace(" ", "_"),
            metric_name=f"{METRIC} (0-1)",
            metric_value=round(row["score"], 4),
        )
        for row in scores.rows
    ]
