"""Asks new questions of personas, with an adapter, a base model, or both side by side.

    python -m ace_jax.ask --adapter RUN/adapter --question "Is work important to you?" \
        --option Yes No --country DEU ITA --all-personas --output OUT
    python -m ace_jax.ask --model smollm2-135m-instruct --questions FILE.toml --country DEU \
        --persona gender=Female,education="College Educated" --output OUT

OUT gets answers.csv (a row a persona and option), effects.csv (how answers shift when one attribute
changes), answers.png, nearest.csv (like questions of the survey, and how the adapter does on them),
and with --poststratify national.csv and weights.csv. docs/asking.md describes the columns.
"""

import argparse
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ace_jax import __version__
from ace_jax.asking import Inquiry, ask_models, open_models
from ace_jax.command import run
from ace_jax.errors import InputError
from ace_jax.evaluation.poststratify import national_answers, persona_weights, read_margins
from ace_jax.files import check_free, whole_directory, write_record
from ace_jax.prompts.encode import Question
from ace_jax.prompts.questions import read_personas, read_questions
from ace_jax.report.asked import draw_answers, shown
from ace_jax.runtime.processes import keep_compiled
from ace_jax.runtime.progress import log

FILE, MARK = "answers.csv", "ask.json"
OTHERS = ("effects.csv", "nearest.csv", "national.csv", "weights.csv", "answers.png")


def main(argv: Sequence[str] | None = None) -> None:
    """Asks, writes and prints."""
    args = _arguments(argv)
    keep_compiled()
    models = open_models(args.adapter, args.model, args.prompt)
    known = models.attributes
    weights = None
    if args.poststratify:
        weights = persona_weights(read_margins(args.poststratify), args.country, known)
    named = [*args.persona, *(read_personas(args.personas) if args.personas else [])]
    inquiry = Inquiry.of(_questions(args), args.country, named, known, weights, args.all_personas)
    if args.show_prompt:
        print(models.shown_prompt(inquiry))
        return
    if args.output is None:
        raise InputError("--output: name a directory for the answers")
    check_free(args.output, (FILE, MARK), OTHERS)
    result = ask_models(models, inquiry)
    tables = dict(result.tables)
    if weights is not None:
        tables |= {
            "weights.csv": weights,
            "national.csv": national_answers(tables[FILE], weights),
        }
    with whole_directory(args.output, (FILE, MARK), OTHERS) as directory:
        for name, table in tables.items():
            table.to_csv(directory / name, index=False)
        draw_answers(tables[FILE], inquiry.questions, directory / "answers.png")
        write_record(directory / MARK, {"version": __version__, **result.facts})
    print(shown(tables[FILE], inquiry.questions, shutil.get_terminal_size().columns))
    for warning in result.warnings:
        log(f"warning: {warning}")
    log(f"answers: {args.output}")


def _questions(args: argparse.Namespace) -> list[Question]:
    if (args.questions is None) == (args.question is None):
        raise InputError("give either --question with --option, or --questions FILE")
    if args.questions is not None:
        if args.option:
            raise InputError("--option: belongs to --question; --questions FILE has its own")
        return read_questions(args.questions)
    return [Question(args.question, tuple(args.option))]


def _persona(text: str) -> dict[str, str]:
    """Reads name=level,name=level; a comma that no name= follows belongs to the level."""
    parts = [part.partition("=") for part in re.split(r",(?=[^,=]+=)", text)]
    if not all(name and level for name, _, level in parts):
        raise argparse.ArgumentTypeError(f"{text!r}: write ATTRIBUTE=LEVEL,ATTRIBUTE=LEVEL")
    return {name.strip(): level.strip() for name, _, level in parts}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ace_jax.ask",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    several: Any = {"nargs": "+", "action": "extend", "default": []}
    add("--adapter", type=Path, metavar="DIR", help="PEFT directory; several: seeds", **several)
    add("--model", help="a base model, alone or beside the adapter")
    add("--prompt", help="template of the base model (default: the adapter's, or persona_first)")
    add("--question", help="the text of one question")
    add("--option", metavar="LABEL", help="its options in order", **several)
    add("--questions", type=Path, metavar="FILE", help=".toml or .csv: id, text, options, topic")
    country = "ISO 3166-1 alpha-3 codes"
    add("--country", type=str.upper, metavar="CODE", help=country, **several)
    persona = "such as gender=Female,education='College Educated'; may be given several times"
    add("--persona", type=_persona, action="append", default=[], metavar="A=L,...", help=persona)
    add("--personas", type=Path, metavar="CSV", help="a column an attribute; country if wanted")
    add(
        "--all-personas",
        action="store_true",
        help="every combination of all levels (a base model: the paper's)",
    )
    margins = "counts or shares by country and attributes: gives a country's answer"
    add("--poststratify", type=Path, metavar="CSV", help=margins)
    add("--show-prompt", action="store_true", help="print the exact text that is sent, and end")
    add("--output", type=Path, metavar="OUT", help="directory to write")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
