"""Makes a DATASET directory of a survey: cells by persona, every rule on the record.

    python -m ace_jax.prepare --source gss2018 --output data/gss
    python -m ace_jax.prepare --source wvs7 --input WVS_Cross-National_Wave_7.csv --output data/wvs
    python -m ace_jax.prepare --source issp --input ZA7570.sav ZA7600.dta --output data/issp
    python -m ace_jax.prepare --source table --codebook own.toml --input own.csv --output data/own
    python -m ace_jax.prepare --source release --input ACE-Align/data/eval --output data/release

Respondents' rows are read and never written. docs/surveys.md says what each source needs.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ace_jax.command import run
from ace_jax.errors import InputError
from ace_jax.report.figures import effect_sizes
from ace_jax.runtime.progress import log
from ace_jax.survey.build import build, summary, with_shrunk_cells
from ace_jax.survey.dataset import EMBEDDED, PICTURE, Dataset, read_dataset, write_dataset
from ace_jax.survey.readers import release_eval, sources

# Options that choose among a survey's own files, by the name that argparse gives them.
OF_FILES = ("weights", "rule", "codebook", "countries", "questions")

HELP = {
    "input": "the survey's files, in any order (gss2018, eqls2011: without them, the cells in "
    "ace_jax; release: the authors' directory data/eval)",
    "codebook": "table: the meaning of its columns and codes",
    "weights": "column of survey weights (default: every respondent counts the same)",
    "rule": "move a cut of the codebook, such as education.college=3 (lowest code that is College "
    "Educated) or residence.rural=5 (lowest code that is Rural)",
    "countries": "ISO 3166-1 alpha-3 codes of the countries to take, tier1, tier2 or tier3 (the "
    "paper's), or all (default: wvs7 and issp: those of the paper; others: all)",
    "questions": "questions to take (default: wvs7: all-240, the paper's; others: all)",
    "strict": "write nothing if the survey has flags (docs/surveys.md)",
    "estimator": "what training learns from: the cells' raw shares (the default, as in the paper) "
    "or shares shrunk towards the main effects of their question and country",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the survey's files, aggregates respondents to cells and writes the DATASET."""
    args = _arguments(argv)
    dataset = _dataset(args)
    if args.strict and (flags := dataset.manifest.get("flags")):
        for flag in flags:
            log(flag)
        raise InputError(f"--strict: the survey has {len(flags)} flags, such as {flags[0]}")
    if args.estimator == "shrunk":
        log("Shrinking cells towards the main effects of their question and country.")
        dataset = with_shrunk_cells(dataset)
    write_dataset(dataset, args.output)
    effect_sizes(dataset, args.output / PICTURE)
    print(summary(dataset.manifest))
    log(f"DATASET written to {args.output}")


def _dataset(args: argparse.Namespace) -> Dataset:
    if args.input and args.source != "release":
        questions = args.questions or ("all-240" if args.source == "wvs7" else "all")
        choices = (args.codebook, args.weights, args.countries, questions)
        raw = sources.read(args.source, args.input, *choices)
        if absent := raw.notes.get("countries_not_in_input"):
            log(f"Not in the input: {', '.join(absent)}.")
        return build(raw, args.input, dict(args.rule), args.weights)
    # Cells that are read as they are leave nothing to choose.
    if chosen := [name for name in OF_FILES if getattr(args, name)]:
        raise InputError(
            f"--{chosen[0]} is for a survey's own files; leave it out, or give them with --input"
        )
    if args.source == "release":
        if len(args.input) != 1:
            raise InputError("--source release needs --input DIRECTORY: the authors' data/eval")
        return release_eval.read_eval(args.input[0])
    if args.source not in EMBEDDED:
        raise InputError(f"--source {args.source} needs the survey's files; give them with --input")
    return read_dataset(args.source)


def _rule(text: str) -> tuple[str, float]:
    key, _, value = text.partition("=")
    try:
        return key, float(value)
    except ValueError:
        raise InputError(f"--rule {text}: write KEY=NUMBER, such as education.college=3") from None


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ace_jax.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--source", required=True, choices=(*sources.READERS, "table", "release"))
    add("--input", nargs="+", type=Path, default=[], metavar="FILE", help=HELP["input"])
    add("--output", required=True, type=Path, metavar="DATASET", help="directory to write")
    add("--codebook", type=Path, metavar="TOML", help=HELP["codebook"])
    add("--weights", metavar="COLUMN", help=HELP["weights"])
    rules = add("--rule", nargs="+", action="extend", type=_rule, default=[], help=HELP["rule"])
    rules.metavar = "KEY=VALUE"
    add("--countries", nargs="+", type=str.upper, metavar="CODE", help=HELP["countries"])
    add("--questions", choices=sources.QUESTIONS, help=HELP["questions"])
    add("--estimator", choices=["raw", "shrunk"], default="raw", help=HELP["estimator"])
    add("--strict", action="store_true", help=HELP["strict"])
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
