"""The record of what a result depends on: model, survey, split, prompt, recipe and versions.

`train` writes it to RUN/experiment.json and into every adapter as ace_experiment.json. Whoever
scores or asks with the adapter takes it from there, and is refused where they contradict it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cattrs
import pandas as pd

from ace_jax import __version__
from ace_jax.errors import InputError
from ace_jax.files import read_object
from ace_jax.model.formats import peft
from ace_jax.prompts.encode import PromptStyle
from ace_jax.prompts.template import PromptTemplate
from ace_jax.recipe import Recipe
from ace_jax.survey.dataset import Dataset, select_questions
from ace_jax.survey.readers.sources import load_survey, paths_of
from ace_jax.survey.split import HeldOut, Split

FILE = "experiment.json"
# What an evaluation must not contradict in silence (`evaluate --allow-mismatch FIELD`).
PROTECTED = ("model", "survey", "questions", "split", "prompt")
VERSIONED = ("jax", "flax", "optax", "transformers", "numpy")
SHOWN = 12  # digits of a digest in a message
CONVERTER = cattrs.Converter(detailed_validation=False, forbid_extra_keys=True)


@dataclass(frozen=True)
class Model:
    """The base model: `name` is what opens it again, `fingerprint` what it is."""

    name: str
    fingerprint: str
    dtype: str
    quantization: str = "none"

    def described(self) -> str:
        """Returns name and fingerprint, for a message."""
        return f"{self.name} (fingerprint {self.fingerprint[:SHOWN]})"


@dataclass(frozen=True)
class Survey:
    """The survey: `digest` is of its content, so a renamed or re-prepared DATASET is the same one.

    Attributes:
      name: last part of the path; of several, joined by +.
      path: how it was named; of several, joined by commas.
      digest: SHA-256 of its questions and cells.
      questions: ids of the questions selected; empty: all.
      attributes: levels by attribute.
      countries: alpha-3 codes.
      examples: SHA-256 of the prompts, answers and pairs learned from; empty before training.
    """

    name: str
    path: str
    digest: str
    questions: tuple[str, ...]
    attributes: Mapping[str, tuple[str, ...]]
    countries: tuple[str, ...]
    examples: str = ""

    @classmethod
    def of(cls, dataset: Dataset, path: str, questions: tuple[str, ...]) -> "Survey":
        """Describes a whole dataset, of which only some questions may be used."""
        return cls(
            name=Path(path).name if len(paths_of(path)) == 1 else dataset.name,
            path=path,
            digest=dataset.digest,
            questions=questions,
            attributes={each.name: tuple(each.levels) for each in dataset.attributes},
            countries=tuple(sorted(map(str, dataset.cells["country"].unique()))),
        )

    def reopened(self) -> Dataset | None:
        """Returns the questions that were used, if the same survey still lies where it was."""
        try:
            survey = load_survey(self.path)
        except InputError:
            return None
        same = survey.digest == self.digest
        return select_questions(survey, self.questions) if same else None

    def described(self) -> str:
        """Returns name and digest, for a message."""
        return f"{self.name} (digest {self.digest[:SHOWN]})"


@dataclass(frozen=True)
class Prompt:
    """How cells are put to the model; `source` is the template's text, so no file is needed."""

    template: str
    source: str
    option_style: str
    chat: bool
    option_order: str = "as_given"
    language: str = "en"

    @classmethod
    def of(cls, style: PromptStyle) -> "Prompt":
        """Describes a style."""
        how = (style.option_style, style.chat, style.option_order, style.language)
        return cls(style.template.name, style.template.source, *how)

    def style(self) -> PromptStyle:
        """Compiles the template that the record carries."""
        template = PromptTemplate.of_source(self.template, self.source)
        how = (self.option_style, self.chat, self.option_order, self.language)
        return PromptStyle(template, *how)

    def described(self) -> str:
        """Returns the parts that are chosen, for a message."""
        chat = ", chat" if self.chat else ""
        order = f", options {self.option_order}" if self.option_order != "as_given" else ""
        words = f", in {self.language}" if self.language != "en" else ""
        return f"template {self.template}, {self.option_style} labels{order}{words}{chat}"

    def same_as(self, other: "Prompt") -> bool:
        """Returns whether the model reads the same text."""
        return replace(self, template="") == replace(other, template="")


@dataclass(frozen=True)
class Experiment:
    """One frozen record; see the module's docstring.

    Attributes:
      model: the base model.
      survey: what training learned from.
      split: hold-out spec and the seed that drew it.
      held_out: the ids that it held out.
      prompt: how cells are put to the model.
      recipe: how the adapter is trained.
      seed: of initialisation, dropout and order.
      versions: of the packages that compute.
    """

    model: Model
    survey: Survey
    split: Split
    held_out: HeldOut
    prompt: Prompt
    recipe: Recipe
    seed: int
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Returns the record as JSON holds it."""
        saved = json.loads(json.dumps(asdict(self)))
        saved["split"]["held_out"] = saved.pop("held_out")
        return saved

    @classmethod
    def from_json(cls, saved: Mapping[str, Any], where: object) -> "Experiment":
        """Reads a record.

        Raises `InputError` naming `where` it lies, unless it is a whole record.
        """
        try:
            split = dict(saved["split"])
            flat = {**saved, "split": split, "held_out": split.pop("held_out")}
            return CONVERTER.structure(flat, cls)
        except Exception as error:  # a foreign file can be wrong in any way
            reason = " ".join(str(error).split())
            raise InputError(
                f"{where}: not a whole experiment record ({reason:.200}); restore the file, or "
                "delete it and name survey and split yourself"
            ) from None

    def differences(self, other: "Experiment") -> list[str]:
        """Returns the dotted names of the fields that differ, versions aside."""
        one, two = _flat(self), _flat(other)
        return sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))


def versions() -> dict[str, str]:
    """Returns the versions of the packages that compute."""
    return {"ace_jax": __version__, **{name: version(name) for name in VERSIONED}}


def read_experiment(file: Path) -> Experiment:
    """Reads a run's record; raises `InputError` for a file that is damaged or not there."""
    return Experiment.from_json(read_object(file, "a run of ace_jax.train"), file)


def adapter_experiment(directory: Path) -> Experiment | None:
    """Returns the record in an adapter's directory; None if it has none (an imported adapter).

    Raises `InputError` for a damaged record, or a directory without an adapter.
    """
    peft.base_of(directory)
    saved = peft.read_record(directory)
    return None if saved is None else Experiment.from_json(saved, directory / peft.RECORD)


def mismatches(
    trained: Experiment,
    *,
    model: Model,
    survey: Survey,
    prompt: Prompt,
    split: Split,
    held_out: HeldOut,
) -> dict[str, str]:
    """Returns what an evaluation contradicts in an adapter's record: field -> both sides.

    Splits are compared by the ids that they hold out, not by how they are written.
    """
    was = trained
    same = {
        "model": was.model.fingerprint == model.fingerprint,
        "survey": was.survey.digest == survey.digest,
        "questions": set(was.survey.questions) == set(survey.questions),
        "split": was.held_out == held_out,
        "prompt": was.prompt.same_as(prompt),
    }
    sides = {
        "model": (was.model.described(), model.described()),
        "survey": (was.survey.described(), survey.described()),
        "questions": (_listed(was.survey.questions), _listed(survey.questions)),
        "split": (_split(was.split, was.held_out), _split(split, held_out)),
        "prompt": (was.prompt.described(), prompt.described()),
    }
    return {
        field: f"{field}: the adapter was trained with {one}, this is {two}"
        for field, (one, two) in sides.items()
        if not same[field]
    }


def refuse_mismatches(found: Mapping[str, str], allowed: tuple[str, ...]) -> tuple[str, ...]:
    """Returns a mark for each allowed mismatch.

    Raises `InputError` naming both sides of every other one, or an unknown field in `allowed`.
    """
    if unknown := [field for field in allowed if field not in PROTECTED]:
        raise InputError(f"--allow-mismatch {unknown[0]}: is not one of {', '.join(PROTECTED)}")
    if refused := [field for field in found if field not in allowed]:
        raise InputError(
            f"{'; '.join(map(found.__getitem__, refused))}. Leave the setting out to take the "
            f"adapter's, or add {' '.join(f'--allow-mismatch {field}' for field in refused)}"
        )
    return tuple(f"mismatch allowed: {sentence}" for sentence in found.values())


def _split(split: Split, held_out: HeldOut) -> str:
    return f"{split.spec} by seed {split.seed} ({held_out.describe()})"


def _listed(questions: tuple[str, ...]) -> str:
    return f"the questions {', '.join(questions)}" if questions else "all questions"


def _flat(experiment: Experiment) -> dict[str, Any]:
    """Returns the fields that are compared, by their dotted names."""
    saved = experiment.to_json()
    # A path may be spelled in other ways; what it holds is compared by its digest.
    del saved["versions"], saved["survey"]["path"], saved["survey"]["name"]
    return {str(name): value for name, value in pd.json_normalize(saved).iloc[0].items()}
