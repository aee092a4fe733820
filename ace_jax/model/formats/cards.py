"""Model cards: the README.md beside every export, with the hub's metadata on top.

A card says what is known and nothing else: where an adapter comes from without a record of its
training, the card has none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from huggingface_hub import EvalResult, ModelCardData

from ace_jax import __version__
from ace_jax.errors import InputError
from ace_jax.model.formats.descriptions import read_object, reason
from ace_jax.model.formats.hub import is_hub_id
from ace_jax.model.lora import LoRAConfig
from ace_jax.survey.dataset import dataset_directory

METRIC = "alignment score"
COLUMNS = {"granularity": int, "n_cells": int, "score": float, "ci_low": float, "ci_high": float}
LIMITS = """## Limits

Given a persona (country and demographic attributes) and a survey question, the distribution over
the answer options is meant to follow that of real respondents with this profile. It describes
groups on average, as one survey asked them, and says nothing about a person. It is no substitute
for asking people, and where the survey has few respondents of a profile it had little to learn."""


@dataclass(frozen=True)
class Training:
    """What an adapter learnt from, and how.

    Attributes:
      data: the survey's name: `data.path`, without the directories of whoever trained.
      citation: how the survey asks to be cited, if that is on record.
      holdout: what training did not see.
      stages: (alpha, beta, epochs) each, as in Eq. 14.
      steps: how many were done.
      learning_rate: of AdamW.
      seed: of the run.
    """

    data: str
    citation: str | None
    holdout: str
    stages: tuple[tuple[float, float, int], ...]
    steps: int
    learning_rate: float
    seed: int

    @classmethod
    def of(cls, settings: Mapping[str, Any], steps: int) -> "Training":
        """Reads a run's settings, which are those of its config.json.

        Raises `InputError` where they are those of no run of this version.
        """
        try:
            data, objective = settings["data"], settings["objective"]
            return cls(
                data=Path(data["path"]).name,
                citation=_citation(data["path"]),
                holdout=str(data["holdout"]),
                stages=tuple(
                    (float(a), float(b), int(epochs)) for a, b, epochs in objective["stages"]
                ),
                steps=steps,
                learning_rate=float(settings["optimizer"]["learning_rate"]),
                seed=int(settings["seed"]),
            )
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise InputError(f"config.json: of another version ({reason(error)})") from None


@dataclass(frozen=True)
class Scores:
    """What `evaluate` found.

    Attributes:
      data: name of the survey.
      split: which of its cells were scored.
      table: a row a granularity: granularity, n_cells, score in [0, 1], ci_low, ci_high.
      adapter_sha256: of the adapter scored; None is the base model.
    """

    data: str
    split: str
    table: pd.DataFrame
    adapter_sha256: str | None

    @classmethod
    def read(cls, directory: Path) -> "Scores":
        """Reads an OUT directory; raises `InputError` where it is none."""
        try:
            run = read_object(directory / "run.json")
            table = pd.read_csv(directory / "scores.csv", keep_default_na=False, na_values=[""])
            table = table[table["country"] == "ALL"].reset_index(drop=True)
            adapter = run["adapter"] and run["adapter"]["sha256"]
            return cls(
                data=Path(run["data"]["path"]).name,
                split=str(run["data"]["split"]),
                table=table.astype(COLUMNS)[list(COLUMNS)],
                adapter_sha256=None if adapter is None else str(adapter),
            )
        except FileNotFoundError as error:
            raise InputError(
                f"{directory}: {Path(error.filename).name} is missing; run ace_jax.evaluate first"
            ) from None
        except (ArithmeticError, OSError, LookupError, TypeError, ValueError) as error:
            raise InputError(
                f"{directory}: not what ace_jax.evaluate wrote ({reason(error)})"
            ) from None


@dataclass(frozen=True)
class AdapterCard:
    """The README of a PEFT directory."""

    base_model: str
    base_fingerprint: str | None
    lora: LoRAConfig
    training: Training | None = None
    scores: Scores | None = None

    def text(self) -> str:
        """Returns the card, metadata first."""
        lora = self.lora
        scale = "alpha / sqrt(rank)" if lora.rslora else "alpha / rank"
        weights = f" (fingerprint `{self.base_fingerprint}`)" if self.base_fingerprint else ""
        parts = [
            f"# ACE-Align adapter for {self.base_model}",
            f"A LoRA adapter for `{self.base_model}`{weights}, written by ace_jax {__version__}.\n"
            f"Rank {lora.rank}, alpha {lora.alpha:g}, scale {scale}, on {', '.join(lora.targets)}.",
            *([_training(self.training, lora)] if self.training else []),
            *([_scores(self.scores)] if self.scores else []),
            _peft(self.base_model),
            LIMITS,
        ]
        data = _metadata(self.base_model, "peft", ["lora", "ace-align", "survey"], self.scores)
        return _page(data, parts)


@dataclass(frozen=True)
class CheckpointCard:
    """The README of a whole checkpoint; `adapter` is None where nothing was merged into it."""

    base_model: str
    base_fingerprint: str
    dtypes: tuple[str, ...]
    adapter: str | None = None
    lora: LoRAConfig | None = None

    def text(self) -> str:
        """Returns the card, metadata first."""
        base = f"`{self.base_model}` (fingerprint `{self.base_fingerprint}`)"
        if self.lora is None:
            parts = [f"# {self.base_model}", f"The weights of {base}, rewritten"]
        else:
            lora = self.lora
            parts = [
                f"# {self.base_model} with an ACE-Align adapter",
                f"{base} with the adapter `{self.adapter}` merged into it: rank {lora.rank}, alpha "
                f"{lora.alpha:g}, on {', '.join(lora.targets)}. Written",
            ]
        parts[-1] += f" by ace_jax {__version__} in {' and '.join(self.dtypes)}."
        if self.lora is not None:
            parts.append(LIMITS)
        tags = ["ace-align", "survey"] if self.lora else []
        return _page(_metadata(self.base_model, "transformers", tags, None), parts)


def _metadata(base: str, library: str, tags: list[str], scores: Scores | None) -> ModelCardData:
    return ModelCardData(
        # The hub links the base by its id; a path on somebody's disk is no such thing.
        base_model=base if "/" in base and is_hub_id(base) and not Path(base).exists() else None,
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
            metric_value=round(float(row["score"]), 4),
        )
        for row in scores.table.to_dict("records")
    ]


def _page(data: ModelCardData, parts: list[str]) -> str:
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def _training(training: Training, lora: LoRAConfig) -> str:
    stages = "; ".join(
        f"{epochs} epoch(s) with alpha {alpha:g}, beta {beta:g}"
        for alpha, beta, epochs in training.stages
    )
    cited = [f"- survey: {training.citation}"] if training.citation else []
    return "\n".join(
        [
            "## Training\n",
            f"- data: `{training.data}`, without the hold-out `{training.holdout}`",
            *cited,
            f"- schedule: {stages} (anchor and effect loss); {training.steps} steps done",
            f"- learning rate {training.learning_rate:g}, LoRA dropout {lora.dropout:g}, "
            f"seed {training.seed}",
        ]
    )


def _scores(scores: Scores) -> str:
    lines = [
        "## Scores\n",
        f"Alignment with `{scores.data}` ({scores.split}): one minus the Wasserstein distance "
        "between the model's\nand the survey's answers, divided by its maximum; mean over "
        "countries.\n",
        "| attributes named | cells | score | 95 % interval |",
        "|---|---|---|---|",
    ]
    for row in scores.table.to_dict("records"):
        known = not pd.isna(row["ci_low"])
        interval = f"{row['ci_low']:.3f} to {row['ci_high']:.3f}" if known else ""
        lines.append(
            f"| {row['granularity']} | {row['n_cells']} | {row['score']:.3f} | {interval} |"
        )
    return "\n".join(lines)


def _peft(base: str) -> str:
    return f"""## Use

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{base}")
model = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(model, "path/to/this/directory")
```"""


def _citation(path: str) -> str | None:
    """Returns how a DATASET wants to be cited; None where it is not here or does not say."""
    try:
        manifest = read_object(dataset_directory(path) / "manifest.json")
    except (InputError, OSError):
        return None
    cited = manifest.get("citation")
    return cited if isinstance(cited, str) else None
