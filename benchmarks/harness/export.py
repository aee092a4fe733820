"""Writes a survey's cells as documents for lm-evaluation-harness, as evaluate asks them.

    python benchmarks/harness/export.py --adapter runs/quickstart/train/adapter \
        --output runs/harness/survey.jsonl
    ace-jax convert merge --model smollm2-135m-instruct --output runs/harness/base
    lm_eval --include_path benchmarks/harness --tasks ace_survey --model hf \
        --model_args pretrained=runs/harness/base,peft=runs/quickstart/train/adapter,dtype=float32

The harness then gives the mean score that `evaluate` gives of the same cells: both said 81.0646 of
the quickstart's adapter at G = 1 (2026-11-28, lm_eval on a CPU, float32).
"""

import argparse
import json
from pathlib import Path

from ace_jax.evaluation.record import evaluation_set
from ace_jax.language_model import LanguageModel
from ace_jax.prompts.encode import render_cells
from ace_jax.survey.readers.sources import load_survey


def main() -> None:
    """Writes one line a cell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--granularity", type=int, default=1, help="attributes that personas name")
    args = parser.parse_args()
    model = LanguageModel.from_pretrained(args.adapter)
    assert model.experiment is not None, "the adapter has no record"
    survey = load_survey(model.experiment.survey.path)
    cells = evaluation_set(survey, "held_out", model.experiment).cells
    cells = cells[cells["granularity"] == args.granularity]
    texts = render_cells(cells, survey, model.style, model.style.listings[0])
    sent = model.sent(texts)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with args.output.open("w") as file:
        for prompt, text, p in zip(sent, texts, cells["p"], strict=True):
            document = {"prompt": prompt, "labels": list(text.labels), "p": list(map(float, p))}
            file.write(json.dumps(document) + "\n")


if __name__ == "__main__":
    main()
