"""Compares evaluated runs: which answers most like the survey, by how much, how surely.

    python -m ace_jax.report --run base=runs/base --run trained=runs/trained --output runs/report

The first run is the one that the others are compared with. Repeat a name with another OUT to add a
seed of that method; means over seeds are shown. Writes into OUTPUT: index.html, one self-contained
page; *.csv, all numbers as tidy tables; figures/, PNG and SVG.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ace_jax import command
from ace_jax.errors import InputError
from ace_jax.evaluation.uncertainty import AVERAGES
from ace_jax.files import check_free, whole_directory
from ace_jax.report.compare import compare
from ace_jax.runtime.progress import log

# What a report always has, and tables that only some have: such a directory may be replaced.
OWN = ("index.html", "scores.csv", "topics.csv", "gains.csv", "slopes.csv", "figures")
SOME = ("differences", "effect_differences", "tiers", "gaps", "composition", "blocks", "order_gaps")
EFFECTS = ("effects", "effect_distances", "classes")
OTHERS = (*(f"{name}.csv" for name in (*SOME, *EFFECTS)), "audit.csv")  # the last of version 0.1


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m ace_jax.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    several = "a name and the directory that evaluate wrote; repeat a name to add a seed"
    parser.add_argument("--run", action="append", required=True, metavar="NAME=OUT", help=several)
    averages = "nested: as the authors' code averages (default); flat: all cells count alike"
    parser.add_argument("--average", choices=AVERAGES, default="nested", help=averages)
    parser.add_argument("--output", required=True, type=Path, help="directory; made if missing")
    options = parser.parse_args(argv)
    runs: dict[str, list[Path]] = {}
    for argument in options.run:
        name, equals, directory = argument.partition("=")
        if not (name.strip() and equals and directory):
            raise InputError(f"--run {argument}: write NAME=OUT, for example base=runs/base")
        runs.setdefault(name, []).append(Path(directory))
    check_free(options.output, OWN, OTHERS)
    log(f"comparing {len(runs)} method(s)")
    comparison = compare(runs, average=options.average)
    log("writing tables, figures and the page")
    with whole_directory(options.output, OWN, OTHERS) as directory:
        comparison.save(directory)
    print(comparison)
    log(f"\nopen {options.output / 'index.html'}; tables and figures lie beside it")


if __name__ == "__main__":
    command.run(main)
