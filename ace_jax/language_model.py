"""A language model, with or without an adapter, that answers survey questions.

model = LanguageModel.from_pretrained("smollm2-135m-instruct")
tuned = LanguageModel.from_pretrained("runs/x/adapter")  # base and prompt from its record
tuned.answer([Question("Is work important to you?", ("Yes", "No"))],
             [{"country": "DEU", "gender": "Female"}])
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import pandas as pd
from flax import nnx
from jax.sharding import Mesh

from ace_jax.answering import Batching, ask
from ace_jax.errors import InputError
from ace_jax.evaluation.answers import Answers, mean_of, predictions_table
from ace_jax.evaluation.asked import Asked, shifts_table
from ace_jax.evaluation.orders import Orders
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
from ace_jax.model.sharding import make_mesh
from ace_jax.model.tree_attention import checked_attention
from ace_jax.prompts.encode import Prompt as Tokens
from ace_jax.prompts.encode import (
    PromptStyle,
    PromptText,
    Question,
    attributes_named,
    check_prompts,
    encode,
    render,
)
from ace_jax.prompts.template import in_chat
from ace_jax.runtime.progress import log
from ace_jax.runtime.saved_answers import SavedAnswers
from ace_jax.survey.dataset import Dataset
from ace_jax.survey.split import Split

BATCHING = Batching()


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
      attention: `xla` or `pallas`.
      adapter: PEFT directory; None: the base model alone.
      experiment: the adapter's record; None if there is none.
      rebased: whether an adapter trained on another base is accepted.
    """

    checkpoint: Checkpoint
    style: PromptStyle
    dtype: str
    quantization: str
    mesh: Mesh
    attention: str = "xla"
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
        attention: str | None = None,
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
          attention: `xla` (None), or `pallas`, the kernel for GPUs.
          mesh: devices; None: all, each with a copy of the model.
          rebased: accept an adapter that was trained on another base.

        Raises:
          InputError: no such model, damaged files, or no such attention here. That the adapter
            belongs to the base is checked when it is first used.
        """
        adapter = Path(path) if (Path(path) / peft.CONFIG).is_file() else None
        record = adapter_experiment(adapter) if adapter else None
        usual = "float32" if jax.default_backend() == "cpu" else "bfloat16"
        name = peft.base_of(adapter).name if adapter else str(path)
        recorded = record.model if record else Model(name, "", usual, "none")
        if record and prompt is None:
            prompt = record.prompt.style()
        elif not isinstance(prompt, PromptStyle):
            prompt = PromptStyle.of(prompt or "persona_first")
        return cls(
            checkpoint=open_checkpoint(base or recorded.name),
            style=prompt,
            dtype=dtype or recorded.dtype,
            quantization=quantization or recorded.quantization,
            mesh=mesh or make_mesh(data=-1, fsdp=1, tensor=1),
            attention=checked_attention(attention or "xla"),
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
        ways = {"quantization": self.quantization, "attention": self.attention}
        return abstract_model(self.checkpoint.config, lora, base_dtype(self.dtype), **ways)

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

    def sent(self, texts: Sequence[PromptText]) -> list[str]:
        """Returns what another server is to be sent: the prompts, in the chat template if any."""
        return in_chat([each.text for each in texts], self.checkpoint.tokenizer, self.style.chat)

    def tokenize(self, texts: Sequence[PromptText]) -> list[Tokens]:
        """Returns the prompts' tokens; raises `InputError` for one that the model cannot read."""
        prompts = encode(texts, self.checkpoint.tokenizer, chat=self.style.chat)
        check_prompts(prompts, self.checkpoint.config.vocab_size, self.checkpoint.config.window)
        return prompts

    def ask(
        self,
        prompts: Mapping[str, Sequence[PromptText]],
        batching: Batching = BATCHING,
        *,
        saved: SavedAnswers | None = None,
        stop: threading.Event | None = None,
    ) -> dict[str, Answers]:
        """Returns the answers to lists of prompts, in their order, by name.

        Raises `InputError` and `Stopped` as `answering.ask`.
        """
        tokens = {name: self.tokenize(texts) for name, texts in prompts.items()}
        forward = partial(self.step, self.lora, self.base)
        return ask(forward, self.mesh, tokens, batching, saved=saved, stop=stop)

    def answer(
        self, questions: Sequence[Question], personas: Sequence[Mapping[str, str]]
    ) -> pd.DataFrame:
        """Asks every persona every question.

        Args:
          questions: to ask.
          personas: `country` (ISO 3166-1 alpha-3) and levels by attribute.

        Returns:
          A row a persona, question and option: country, the attributes, question_id, option (its
          text), p (float64; the mean over both orders if the style asks both) and option_mass (of
          all options, before renormalising).

        Raises:
          InputError: nothing to ask, or a country, attribute or level that is not known.
        """
        asked = self.answers_by_order(questions, personas, self.style.listings)
        return asked.table(mean_of(list(asked.listings.values())))

    def answers_by_order(
        self,
        questions: Sequence[Question],
        personas: Sequence[Mapping[str, str]],
        listings: Sequence[bool] = (False, True),
    ) -> Asked:
        """Asks as `answer` does, and returns the answers by the order of options.

        `listings` are the orders: whether the last option is listed first.
        """
        known = self.experiment.survey.attributes if self.experiment else {}
        names = attributes_named(personas, known)
        if not (questions and personas):
            raise InputError("give at least one question and one persona")
        # The prompt names attributes in the survey's order, as in training.
        fields = ["country", *names]
        ordered = [{name: one[name] for name in fields if name in one} for one in personas]
        pairs = [(question, persona) for question in questions for persona in ordered]
        # People of one profile are asked once.
        asked = {
            last_first: pd.Series(
                [
                    render(each.text, each.options, each.codes, persona, self.style, last_first)
                    for each, persona in pairs
                ],
                dtype=object,
            ).factorize()
            for last_first in listings
        }
        answers = self.ask({str(key): list(distinct) for key, (_, distinct) in asked.items()})
        found = {key: answers[str(key)].take(rows.tolist()) for key, (rows, _) in asked.items()}
        who = pd.DataFrame(
            [{**dict.fromkeys(fields), **one, "question_id": each.id} for each, one in pairs]
        )
        return Asked(who, [question.options for question, _ in pairs], found)

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
          The columns of `evaluation.asked.shifts_table`.

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
        orders = Orders.of(self.style, scored.cells)
        answers = self.ask(orders.texts(scored.dataset))
        predictions = predictions_table(scored.cells, orders.settle(answers))
        predictions.attrs["ace_jax"] = {
            "run": self.run_record(scored, marks) | {"order_gap": orders.gap(answers)},
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
