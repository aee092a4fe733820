"""ACE-Align in JAX: from survey answers to a LoRA adapter, a report, and answers to new questions.

    import ace_jax as ace

    survey = ace.load_survey("gss2018")
    model = ace.LanguageModel.from_pretrained("smollm2-135m-instruct")
    run = ace.fine_tune(model, survey, split=ace.Split.questions(0.2), workdir="runs/x")
    tuned = ace.LanguageModel.from_pretrained(run.adapter)
    tuned.score(survey, split="held_out")

What is named here is imported when it is first used.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# transformers is used for tokenizers only, so a missing PyTorch is no news to the user.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

__version__ = "0.2.0"

if TYPE_CHECKING:
    from ace_jax.errors import InputError, Stopped
    from ace_jax.experiment import Experiment
    from ace_jax.language_model import LanguageModel
    from ace_jax.prompts.encode import Question
    from ace_jax.recipe import load_config
    from ace_jax.report.compare import Comparison, compare
    from ace_jax.survey.dataset import Dataset
    from ace_jax.survey.readers.sources import load_survey
    from ace_jax.survey.split import Split
    from ace_jax.training.run import Run, fine_tune

_HOMES = {
    "Comparison": "report.compare",
    "Dataset": "survey.dataset",
    "Experiment": "experiment",
    "InputError": "errors",
    "LanguageModel": "language_model",
    "Question": "prompts.encode",
    "Run": "training.run",
    "Split": "survey.split",
    "Stopped": "errors",
    "compare": "report.compare",
    "fine_tune": "training.run",
    "load_config": "recipe",
    "load_survey": "survey.readers.sources",
}
__all__ = [
    "Comparison",
    "Dataset",
    "Experiment",
    "InputError",
    "LanguageModel",
    "Question",
    "Run",
    "Split",
    "Stopped",
    "compare",
    "fine_tune",
    "load_config",
    "load_survey",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ace_jax' has no attribute {name!r}")
    return getattr(import_module(f"ace_jax.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
