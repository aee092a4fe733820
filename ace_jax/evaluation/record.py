"""What an evaluation scores, and what it writes: the tables and run.json, the record of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from ace_jax import __version__
from ace_jax.errors import InputError, check_in
from ace_jax.evaluation.alignment import score_table
from ace_jax.evaluation.answers import Answers, answers_table, predictions_table
from ace_jax.evaluation.blocks import MODEL, SLOPES, block_table
from ace_jax.evaluation.poststratify import national_table
from ace_jax.evaluation.references import reference_answers
from ace_jax.experiment import Experiment, Model, Prompt, Survey, mismatches, refuse_mismatches
from ace_jax.files import digests, whole_file, write_record
from ace_jax.prompts.encode import PromptStyle
from ace_jax.prompts.template import PromptTemplate
from ace_jax.survey.dataset import Dataset, select_questions
from ace_jax.survey.readers.release_train import is_release_train
from ace_jax.survey.readers.sources import load_survey, paths_of
from ace_jax.survey.split import HeldOut, Split

PARTS = ("held_out", "train", "all")
MIN_N = 10  # respondents in both cells of a pair, the paper's
BESIDE = "score_"  # before a reference's name, in scores.csv
QUESTIONS = ["question_id", "topic", "text", "option_labels"]  # what a report needs of them
NOT_AT_HAND = (
    "the adapter's survey is not at hand: which questions it saw is told by the hold-out alone"
)
NOT_RECORDED = "split not recorded: the adapter does not say what it was trained on"


@dataclass(frozen=True)
class EvaluationSet:
    """The cells to score, and what training must not have seen.

    `dataset` has the questions selected, `survey` is its record, `part` is `held_out`, `train` or
    `all`. `held_out` is what the split holds out. `unseen` is that, and the questions and countries
    that an adapter was not trained with because its survey was another one. Both cells of a pair
    have `min_n` respondents, for statistics of effects. The split's seed is that of the report's
    simulations too. With `granularity`, only cells that name so many attributes are scored. `marks`
    are what a reader of the scores must know of `unseen`.
    """

    dataset: Dataset
    survey: Survey
    split: Split
    held_out: HeldOut
    unseen: HeldOut
    part: str
    min_n: int
    granularity: int | None = None
    marks: tuple[str, ...] = ()

    @property
    def seen(self) -> np.ndarray:
        """Which cells of the dataset training may see."""
        return ~self.unseen.cells(self.dataset)

    @property
    def cells(self) -> pd.DataFrame:
        """The cells to score, however few respondents; `InputError` if there are none."""
        if self.part not in PARTS:
            raise InputError(f"data.split: {self.part!r} is not one of {', '.join(PARTS)}")
        seen = self.seen
        chosen = {"held_out": ~seen, "train": seen, "all": np.ones_like(seen)}[self.part]
        if self.granularity is not None:
            chosen &= (self.dataset.cells["granularity"] == self.granularity).to_numpy()
        if not chosen.any():
            named = "" if self.granularity is None else f", data.granularity {self.granularity}"
            raise InputError(
                f"no cells to score: data.split {self.part}, data.holdout {self.split.spec}{named};"
                " use another one"
            )
        return self.dataset.cells[chosen].reset_index(drop=True)

    @property
    def references(self) -> dict[str, Answers]:
        """The answers of all references to the cells to score."""
        return reference_answers(self.cells, self.dataset, self.seen)

    @property
    def questions_scored(self) -> pd.DataFrame:
        """The questions of the cells to score: question_id, topic, text, option_labels."""
        table = self.dataset.questions
        return table.loc[table["question_id"].isin(self.cells["question_id"]), QUESTIONS]

    def check(
        self, trained: Experiment, model: Model, prompt: Prompt, allowed: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Returns marks for allowed contradictions of an adapter's record.

        Raises `InputError` naming both sides of every other one.
        """
        found = mismatches(
            trained,
            model=model,
            survey=self.survey,
            prompt=prompt,
            split=self.split,
            held_out=self.held_out,
        )
        return (*refuse_mismatches(found, allowed), *self.marks)


def evaluation_set(
    survey: Dataset,
    part: str,
    record: Experiment | None,
    *,
    split: Split | None = None,
    path: str | None = None,
    questions: tuple[str, ...] | None = None,
    min_n: int | None = None,
    granularity: int | None = None,
) -> EvaluationSet:
    """Returns the cells of a survey to score; an adapter's record fills what is None.

    `path` is how the survey was named, `questions` are ids of those to use (empty: all), the rest
    is as in `EvaluationSet`. Raises InputError if no hold-out is known, or for an id that the
    survey does not have.
    """
    if split is None and record is None and part != "all":
        raise InputError(
            f"split {part!r}: no hold-out is known without an adapter's record; give holdout=, "
            'such as Split.questions(0.2), or score split="all"'
        )
    if questions is None:
        questions = record.survey.questions if record else ()
        if not set(questions) <= set(survey.questions["question_id"]):  # those of another survey
            questions = ()
    split = split or (record.split if record else Split())
    dataset = select_questions(survey, questions)
    drawn = record.held_out if record and split == record.split else split.held_out(dataset)
    described = Survey.of(survey, path or survey.path or survey.name, questions)
    unseen, marks = _unseen(drawn, described, dataset, record)
    return EvaluationSet(
        dataset=dataset,
        survey=described,
        split=split,
        held_out=drawn,
        unseen=unseen,
        marks=marks,
        part=part,
        min_n=min_n or (record.recipe.min_n if record else MIN_N),
        granularity=granularity,
    )


def _unseen(
    held_out: HeldOut, survey: Survey, dataset: Dataset, record: Experiment | None
) -> tuple[HeldOut, tuple[str, ...]]:
    """Returns what is held out and what training on another survey did not see, and marks.

    Questions are told by their words: another survey may use an id for another question, or another
    id for the same. Where training's survey is not at hand, none is added, and a mark says so.
    """
    if record is None:
        return held_out, ()
    was = record.survey
    if was.digest == survey.digest and set(was.questions) == set(survey.questions):
        return held_out, ()
    asked, trained = _words(dataset), was.reopened()
    known = asked if trained is None else _words(trained)
    learnt = {words for name, words in known.items() if name not in record.held_out.questions}
    questions = {name for name, words in asked.items() if words not in learnt}
    seen = set(was.countries) - set(record.held_out.countries)
    countries = set(survey.countries) - seen
    unseen = HeldOut(
        tuple(sorted(questions | set(held_out.questions))),
        tuple(sorted(countries | set(held_out.countries))),
        held_out.personas,
    )
    return unseen, (NOT_AT_HAND,) if trained is None else ()


def _words(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """Returns the text and the options of each question, by id."""
    rows = dataset.questions[["question_id", "text", "option_labels"]].itertuples(index=False)
    return {name: (text, *labels) for name, text, labels in rows}


def requested_set(config: ConfigDict, record: Experiment | None) -> EvaluationSet:
    """Returns the cells that a config of `evaluate` names; the record fills what is None."""
    path = ",".join(paths_of(given(config, "data.path", record and record.survey.path)))
    if is_release_train(Path(path)):
        raise InputError(
            f"data.path: {path} is the authors' training file, which has no cells; name those to "
            "score, --config.data.path=data/eval --allow-mismatch survey"
        )
    data, spec = config.data, given(config, "data.holdout", record and record.split.spec)
    seed = given(config, "seed", record.split.seed if record else None)
    check_in("[0, 4294967295]", seed=seed)
    questions = None if data.questions is None else tuple(data.questions)
    split = Split(spec, seed)
    return evaluation_set(
        load_survey(path),
        data.split,
        record,
        split=split,
        path=path,
        questions=questions,
        min_n=data.min_n,
        granularity=data.granularity,
    )


def requested_model(config: ConfigDict, record: Experiment | None) -> dict[str, Any]:
    """Returns base, prompt, dtype and quantization that a config of `evaluate` names.

    None stands for what the record says. Raises `InputError` naming a field that neither gives.
    """
    asked = record.prompt if record else None
    if asked and config.prompt.template is None:
        template = asked.style().template
    else:
        template = PromptTemplate.load(given(config, "prompt.template", None))
    style = given(config, "prompt.option_style", asked and asked.option_style)
    order = given(config, "prompt.option_order", asked and asked.option_order)
    language = given(config, "prompt.language", asked and asked.language)
    chat = given(config, "prompt.chat", asked.chat if asked else None)
    return {
        "base": given(config, "model.path", record and record.model.name),
        "prompt": PromptStyle(template, style, chat, order, language),
        "dtype": config.model.dtype,
        "quantization": config.model.quantization,
        "attention": config.model.attention,
    }


def given(config: ConfigDict, field: str, recorded: Any) -> Any:
    """Returns a field of a config, or what the record says if it is None.

    Raises `InputError` naming the field if both are None.
    """
    stated = config.to_dict()
    for name in field.split("."):
        stated = stated[name]
    value = recorded if stated is None else stated
    if value is None:
        raise InputError(
            f"{field}: is not given, and no adapter's record says it; set --config.{field}=..., or "
            "use --config configs/evaluate.py:EXPERIMENT"
        )
    return value


def run_record(
    scored: EvaluationSet,
    *,
    model: Mapping[str, Any],
    prompt: Mapping[str, Any],
    adapter: Mapping[str, str] | None,
    marks: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Returns the content of run.json: what was scored, and who answered.

    `model` and `prompt` are records of the base and of how it was asked, `adapter` is the path and
    SHA-256 of one. `marks` are what a reader of the scores must know.
    """
    survey = scored.survey
    return {
        "version": __version__,
        "seed": scored.split.seed,
        "attributes": {name: list(levels) for name, levels in survey.attributes.items()},
        "model": model,
        "adapter": adapter,
        "data": {
            "path": survey.path,
            "digest": survey.digest,
            "holdout": scored.split.spec,
            "split": scored.part,
            "min_n": scored.min_n,
            "granularity": scored.granularity,
            "questions": list(survey.questions),
        },
        "prompt": prompt,
        "held_out": {name: list(ids) for name, ids in asdict(scored.unseen).items()},
        "marks": list(marks),
    }


def result_tables(
    scored: EvaluationSet, answers: Answers, references: Mapping[str, Answers]
) -> dict[str, pd.DataFrame]:
    """Returns the tables by file name; national.csv is there if there are cells of the finest kind.

    scores.csv has a column `score_NAME` a reference. references.parquet has a row a cell and
    reference: reference, cell (its row in predictions.parquet, int64), p (float64 array).
    blocks.csv is `blocks.block_table`.
    """
    cells, questions = scored.cells, scored.questions_scored
    predictions = predictions_table(cells, answers)
    score_of = {
        f"{BESIDE}{name}": score_table(predictions_table(cells, of))["score"]
        for name, of in references.items()
    }
    rows = [
        pd.DataFrame({"reference": name, "cell": range(len(cells)), "p": of.p})
        for name, of in references.items()
    ]
    tables = {
        "predictions.parquet": predictions,
        "references.parquet": pd.concat(rows, ignore_index=True),
        "answers.csv": answers_table(predictions, questions),
        "scores.csv": score_table(predictions).assign(**score_of),
        "questions.parquet": questions,
        "blocks.csv": block_table(
            {
                name: [predictions_table(cells, of)]
                for name, of in {MODEL: answers, **references}.items()
            },
            scored.unseen,
            scored.dataset.attributes,
            scored.min_n,
        ),
    }
    national = national_table(predictions, len(scored.dataset.attributes))
    if len(national):
        tables["national.csv"] = national
    return tables


def write_output(workdir: Path, tables: Mapping[str, pd.DataFrame], run: Mapping[str, Any]) -> None:
    """Writes the tables, and run.json last: without it the directory is not complete.

    Raises `InputError` if they cannot be written.
    """
    for before in ("run.json", "national.csv", "audit.csv", "scores.png"):  # two of version 0.1
        (workdir / before).unlink(missing_ok=True)
    for name, table in tables.items():
        with whole_file(workdir / name, replace=True) as file:
            write = table.to_parquet if name.endswith(".parquet") else table.to_csv
            write(file, index=False)
    with whole_file(workdir / "run.json", replace=True) as file:
        write_record(file, {**run, "files": digests(workdir, tables)})


def shown(tables: Mapping[str, pd.DataFrame]) -> str:
    """Returns scores, the finest cells of each block and national answers."""
    scores, blocks = tables["scores.csv"], tables["blocks.csv"]
    beside = [str(name) for name in scores if str(name).startswith(BESIDE)]
    style: dict[str, Any] = {"float_format": "{:.4f}".format, "index": False}
    parts = [scores.drop(columns=beside).to_string(**style)]
    parts.append(
        "This run, and what needs no language model. A slope of 0: answers do not move with the "
        "attribute or the country; 1: as in the survey."
    )
    finest = blocks[blocks["granularity"] == blocks["granularity"].max()]
    for block, its in finest.groupby("block", sort=False):
        row = its.iloc[0]
        size = f"questions {row['n_questions']}, countries {row['n_countries']}"
        table = its[["run", "score", *SLOPES]].dropna(axis=1, how="all").to_string(**style)
        parts.append(f"{block}, G = {row['granularity']} ({size}):\n{table}")
    if "national.csv" in tables:
        means = tables["national.csv"][["distance", "distance_unweighted"]].mean()
        parts.append(
            f"national answers: distance {means['distance']:.4f} from the survey's where personas "
            f"weigh as respondents, {means['distance_unweighted']:.4f} where they count alike"
        )
    return "\n\n".join(parts)
