"""A language model, with or without an adapter, that answers survey questions.

model = LanguageModel.from_pretrained("smollm2-135m-instruct")
tuned = LanguageModel.from_pretrained("runs/x/adapter")  # base and prompt from its record
tuned.answer([Question("Is work important to you?", ("Yes", "No"))],
             [{"country": "DEU", "gender": "Female"}])
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from flax import nnx
from jax.sharding import Mesh

from ace_jax.errors import InputError, check_positive
from ace_jax.evaluation.answers import Answers, predictions_table, shifts_table
from ace_jax.evaluation.record import (
    NOT_RECORDED,
    EvaluationSet,
    evaluation_set,
    run_record,
)
from ace_jax.experiment import Experiment, Model, Prompt, adapter_experiment
from ace_jax.likelihood import ScoringStep, make_scoring_step
from ace_jax.model.architecture import base_dtype
from ace_jax.model.formats import peft
from ace_jax.model.formats.hf import fingerprint, load_base
from ace_jax.model.formats.hub import Checkpoint, open_checkpoint
from ace_jax.model.llama import AbstractModel, abstract_model
from ace_jax.model.sharding import make_mesh, place_scoring, row_shards
from ace_jax.prompts.batches import Shapes, alike, scoring
from ace_jax.prompts.encode import Prompt as Tokens
from ace_jax.prompts.encode import (
    PromptStyle,
    PromptText,
    Question,
    attributes_named,
    check_prompts,
    encode,
    render,
    render_cells,
)
from ace_jax.recipe import ROW_LENGTHS
from ace_jax.runtime.processes import Agreement, raise_if
from ace_jax.runtime.progress import log, progress
from ace_jax.runtime.saved_answers import Progress, SavedAnswers
from ace_jax.survey.dataset import Dataset
from ace_jax.survey.split import Split

BATCH_SIZE = 80  # prompts that share a trie


@dataclass(frozen=True)
class LanguageModel:
    """A model that is ready to be asked; weights are read when they are first needed.

    Make one with `from_pretrained`.

    Attributes:
      checkpoint: the base model's files.
      style: how cells are put to it.
      dtype: of the base weights.
      quantization: of the base's kernels.
      mesh: devices.
      adapter: PEFT directory; None: the base model alone.
      experiment: the adapter's record; None if there is none.
      rebased: whether an adapter trained on another base is accepted.
    """

    checkpoint: Checkpoint
    style: PromptStyle
    dtype: str
    quantization: str
    mesh: Mesh
    adapter: Path | None = None
    experiment: Experiment | None = None
    rebased: bool = False

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        base: str | None = None,
        prompt: PromptStyle | str | None = None,
        dtype: str | None = None,
        quantization: str | None = None,
        mesh: Mesh | None = None,
        rebased: bool = False,
    ) -> "LanguageModel":
        """Opens a base model, or an adapter with the base and the prompt of its record.

        Args:
          path: what `model.path` takes (built-in name, directory, .gguf file, hub id), or the
            directory of an adapter.
          base: the base model; None: the adapter's.
          prompt: a style, or the name of a template; None: the adapter's, or `persona_first`.
          dtype: `float32` or `bfloat16`; None: the adapter's, or float32 on a CPU and bfloat16
            elsewhere.
          quantization: `none`, `int8` or `nf4`; None: the adapter's, or none.
          mesh: devices; None: all, each with a copy of the model.
          rebased: accept an adapter that was trained on another base.

        Raises:
          InputError: no such model, or damaged files. That the adapter belongs to the base is
            checked when it is first used.
        """
        adapter = Path(path) if (Path(path) / peft.CONFIG).is_file() else None
        record = adapter_experiment(adapter) if adapter else None
        usual = "float32" if jax.default_backend() == "cpu" else "bfloat16"
        name = peft.base_of(adapter).name if adapter else str(path)
        recorded = record.model if record else Model(name, "", usual, "none")
        if record and prompt is None:
            prompt = record.prompt.style()
        elif not isinstance(prompt, PromptStyle):
            prompt = PromptStyle.of(prompt or "persona_first", "number")
        return cls(
            checkpoint=open_checkpoint(base or recorded.name),
            style=prompt,
            dtype=dtype or recorded.dtype,
            quantization=quantization or recorded.quantization,
            mesh=mesh or make_mesh(data=-1, fsdp=1, tensor=1),
            adapter=adapter,
            experiment=record,
            rebased=rebased,
        )

    def __str__(self) -> str:
        devices = f"{self.mesh.size} {jax.default_backend()} device(s)"
        return (
            f"{self.checkpoint.name} in {self.dtype}, adapter: {self.adapter or 'none'}, on "
            f"{devices} of {jax.process_count()} process(es)"
        )

    @cached_property
    def record(self) -> Model:
        """The base model, as records name it."""
        identity = fingerprint(self.checkpoint.source)
        return Model(self.checkpoint.name, identity, self.dtype, self.quantization)

    @cached_property
    def abstract(self) -> AbstractModel:
        """Structure and shapes."""
        lora = peft.read_lora_config(self.adapter, dropout=0.0) if self.adapter else None
        dtype = base_dtype(self.dtype)
        return abstract_model(self.checkpoint.config, lora, dtype, quantization=self.quantization)

    @cached_property
    def base(self) -> nnx.State:
        """The frozen parameters, on the mesh."""
        return load_base(self.abstract.base, self.checkpoint.source, self.mesh)

    @cached_property
    def lora(self) -> nnx.State:
        """The adapter's parameters; empty for a base model."""
        if self.adapter is None:
            return self.abstract.lora
        identity = None if self.rebased else self.record.fingerprint
        return peft.load_adapter(self.adapter, self.abstract.lora, self.mesh, identity)

    def load(self) -> "LanguageModel":
        """Reads the weights now; raises `InputError` for files that do not fit."""
        _ = self.lora, self.base
        return self

    @cached_property
    def step(self) -> ScoringStep:
        """The compiled forward pass."""
        return make_scoring_step(self.abstract.graph, self.mesh)

    def tokenize(self, texts: Sequence[PromptText]) -> list[Tokens]:
        """Returns the prompts' tokens; raises `InputError` for one that the model cannot read."""
        prompts = encode(texts, self.checkpoint.tokenizer, chat=self.style.chat)
        check_prompts(prompts, self.checkpoint.config.vocab_size, self.checkpoint.config.window)
        return prompts

    def ask(
        self,
        prompts: Mapping[str, Sequence[Tokens]],
        *,
        size: int = BATCH_SIZE,
        row_lengths: tuple[int, ...] = ROW_LENGTHS,
        saved: SavedAnswers | None = None,
        stop: threading.Event | None = None,
    ) -> dict[str, Answers]:
        """Returns the answers to lists of prompts, in their order, by name.

        Args:
          prompts: name -> prompts; those of one name share batches.
          size: prompts that share a trie.
          row_lengths: allowed numbers of trie nodes a row.
          saved: where answers are saved meanwhile, and gone on from.
          stop: set when this process is asked to end.

        Raises:
          InputError: a prompt longer than the longest row, or `saved` cannot be read or written.
          Stopped: any process was asked to end; all end after the same batch.
        """
        every = [prompt for named in prompts.values() for prompt in named]
        shapes = self.shapes(every, size, row_lengths)
        batches, first = [], 0
        for named in prompts.values():
            batches += [[first + row for row in rows] for rows in alike(named, size)]
            first += len(named)
        done = Progress.empty(len(every), shapes.options)
        done = saved.restore(done) if saved else done
        agreement, stopped = Agreement(self.mesh), False
        with closing(progress("evaluate", "batch", done.batches, len(batches))) as bar:
            running = self._run(every, batches[done.batches :], shapes, size)
            for rows, p, mass in running:
                done.p[rows], done.option_mass[rows] = p, mass
                done.batches += 1
                bar.update()
                late = saved is not None and saved.is_late()
                stopped, late = np.asarray(agreement(bool(stop and stop.is_set()), late)).tolist()
                if saved and (stopped or late or done.batches == len(batches)):
                    saved.save(done)
                if stopped:
                    break
        raise_if(stopped, f"after batch {done.batches} of {len(batches)}")
        return done.by_name(prompts)

    def shapes(
        self, prompts: Sequence[Tokens], batch_size: int, row_lengths: tuple[int, ...]
    ) -> Shapes:
        """Returns the shapes of the batches; raises `InputError` if a prompt does not fit."""
        check_positive("batch.size", batch_size)
        options = max(len(prompt.options) for prompt in prompts)
        shapes = Shapes(row_lengths, row_shards(self.mesh), options)
        shapes.check(prompts)
        return shapes

    def _run(
        self,
        prompts: Sequence[Tokens],
        batches: Sequence[list[int]],
        shapes: Shapes,
        batch_size: int,
    ) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
        """Yields each batch's rows, distributions and option mass.

        The next batch is laid out and started before this one's results are fetched.
        """

        def start(rows: list[int]) -> Any:
            batch = scoring([prompts[row] for row in rows], shapes, batch_size)
            return self.step(self.lora, self.base, place_scoring(batch, self.mesh))

        waiting = start(batches[0]) if batches else None
        for rows, following in pairwise([*batches, None]):
            running, waiting = waiting, start(following) if following else None
            p, mass = jax.device_get(running)
            assert rows is not None
            yield rows, p[: len(rows)], mass[: len(rows)]

    def answer(
        self,
        questions: Sequence[Question],
        personas: Sequence[Mapping[str, str]],
        *,
        batch_size: int = BATCH_SIZE,
    ) -> pd.DataFrame:
        """Asks every persona every question.

        Args:
          questions: to ask.
          personas: `country` (ISO 3166-1 alpha-3) and levels by attribute.
          batch_size: prompts that share a trie.

        Returns:
          A row a persona, question and option: country, the attributes, question_id, option (its
          text), p (float64) and option_mass (of all options, before renormalising).

        Raises:
          InputError: nothing to ask, or a country, attribute or level that is not known.
        """
        known = self.experiment.survey.attributes if self.experiment else {}
        names = attributes_named(personas, known)
        if not (questions and personas):
            raise InputError("answer: give at least one question and one persona")
        # The prompt names attributes in the survey's order, as in training.
        fields = ["country", *names]
        ordered = [{name: one[name] for name in fields if name in one} for one in personas]
        asked = [(persona, question) for question in questions for persona in ordered]
        texts = [render(each.text, each.options, persona, self.style) for persona, each in asked]
        answers = self.ask({"": self.tokenize(texts)}, size=batch_size)[""]
        rows = [
            {
                "country": persona["country"],
                **{name: persona.get(name) for name in names},
                "question_id": question.id,
                "option": option,
                "p": float(share),
                "option_mass": float(mass),
            }
            for (persona, question), p, mass in zip(
                asked, answers.p, answers.option_mass, strict=True
            )
            for option, share in zip(question.options, p, strict=True)
        ]
        return pd.DataFrame(rows)

    def effects(
        self,
        questions: Sequence[Question],
        personas: Sequence[Mapping[str, str]],
        attribute: str,
        *,
        levels: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Returns how answers shift when one attribute of a persona is switched.

        Args:
          questions: to ask.
          personas: as in `answer`; what they say of `attribute` is replaced.
          attribute: the one to switch, between every two of its levels.
          levels: of the attribute; None: those of the adapter's survey.

        Returns:
          The columns of `evaluation.answers.shifts_table`.

        Raises:
          InputError: as `answer`, or no levels are known.
        """
        known = self.experiment.survey.attributes.get(attribute) if self.experiment else None
        chosen = tuple(levels or known or ())
        if len(chosen) < 2:
            raise InputError(f"effects: name two levels of {attribute!r} or more (levels=...)")
        rest = [{k: v for k, v in persona.items() if k != attribute} for persona in personas]
        distinct = [dict(each) for each in dict.fromkeys(tuple(each.items()) for each in rest)]
        asked = [persona | {attribute: level} for persona in distinct for level in chosen]
        return shifts_table(self.answer(questions, asked), attribute, chosen)

    def score(
        self,
        survey: Dataset,
        split: str = "held_out",
        *,
        holdout: Split | None = None,
        allow_mismatch: Sequence[str] = (),
    ) -> pd.DataFrame:
        """Asks for the answers to a survey's cells and scores them, as `evaluate` does.

        Args:
          survey: the survey.
          split: which cells: `held_out`, `train` or `all`.
          holdout: what training must not have seen; None: the adapter's.
          allow_mismatch: fields of the adapter's record that may be contradicted.

        Returns:
          The columns of predictions.parquet. `attrs["ace_jax"]` holds the content of run.json and
          the questions, for `compare`.

        Raises:
          InputError: no cells to score, no hold-out known, or a contradiction of the record.
        """
        scored = evaluation_set(survey, split, self.experiment, split=holdout)
        marks = self.marks(scored, tuple(allow_mismatch))
        cells = scored.cells
        prompts = self.tokenize(render_cells(cells, scored.dataset, self.style))
        answers = self.ask({"": prompts})[""]
        predictions = predictions_table(cells, answers)
        predictions.attrs["ace_jax"] = {
            "run": self.run_record(scored, marks),
            "questions": scored.questions_scored.to_dict("records"),
        }
        return predictions

    def marks(self, scored: EvaluationSet, allowed: tuple[str, ...]) -> tuple[str, ...]:
        """Returns what readers of a score must know of it.

        Raises `InputError` naming both sides of what contradicts the adapter's record.
        """
        marks: tuple[str, ...] = ()
        if self.adapter and self.experiment is None:
            marks = (NOT_RECORDED,)
        elif self.experiment:
            marks = scored.check(self.experiment, self.record, Prompt.of(self.style), allowed)
        for mark in marks:
            log(f"warning: {mark}")
        return marks

    def run_record(self, scored: EvaluationSet, marks: tuple[str, ...]) -> dict[str, Any]:
        """Returns the content of run.json for this model."""
        return run_record(
            scored,
            model=asdict(self.record),
            prompt=asdict(Prompt.of(self.style)),
            adapter=peft.identity_of(self.adapter) if self.adapter else None,
            marks=marks,
        )
