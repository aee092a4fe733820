"""Sets evaluated runs side by side: which answers most like the survey, by how much, how surely.

    python -m ace_jax.report --run base=runs/base --run trained=runs/trained --output runs/report

The first run is the one that the others are compared with. Writes into OUTPUT: index.html, one page
that needs nothing else; *.csv, every number as tidy tables; table1.md and table1.tex; figures/, as
PNG and SVG.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ace_jax import command
from ace_jax.analysis.averages import AVERAGES
from ace_jax.analysis.findings import ALL, Findings, find
from ace_jax.analysis.page.content import index_html
from ace_jax.analysis.paper_figures import write_figures
from ace_jax.analysis.runs import Run, on_common_cells, read_run
from ace_jax.analysis.tables import write_tables
from ace_jax.command import say
from ace_jax.errors import InputError


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the whole job; see the module's docstring."""
    options = _parse(argv)
    runs = _read(options.run)
    output = _directory(Path(options.output))
    common, notes = on_common_cells(runs)
    for note in notes:
        say(note)
    say(f"comparing {len(common)} runs on {len(common[0].predictions):,} cells")
    findings = find(common, notes, options.average)
    say("writing tables, figures and the page")
    try:
        write_tables(findings, output)
        write_figures(findings, output / "figures")
        (output / "index.html").write_text(index_html(findings), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {output}: {error.strerror}") from None
    print(f"Alignment score (0-100, {findings.average}) by granularity, mean over countries:\n")
    print(_side_by_side(findings))
    if "effect_distances" in findings.tables:
        print("\nDistance between the model's and the survey's effects (lower is better):\n")
        print(_effect_distances(findings).to_string(float_format="{:.4f}".format))
    say(f"\nopen {output / 'index.html'}; tables and figures lie beside it")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ace_jax.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--run",
        action="append",
        required=True,
        metavar="NAME=OUT",
        help="a name and what evaluate wrote; the first run is the one to compare with",
    )
    parser.add_argument(
        "--average",
        choices=AVERAGES,
        default="nested",
        help="nested: as the authors' code averages (default); flat: every cell alike",
    )
    parser.add_argument("--output", required=True, help="directory; made if needed")
    return parser.parse_args(argv)


def _read(arguments: Sequence[str]) -> list[Run]:
    runs: dict[str, Run] = {}
    for argument in arguments:
        name, equals, directory = argument.partition("=")
        if not (name.strip() and equals and directory):
            raise InputError(f"--run {argument}: write NAME=OUT, for example base=runs/base")
        if name in runs or name == ALL:
            raise InputError(f"--run {argument}: the name {name} is taken; give it another")
        runs[name] = read_run(name, Path(directory))
    return list(runs.values())


def _directory(path: Path) -> Path:
    try:
        (path / "figures").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--output {path}: cannot be made ({error.strerror}); name another directory"
        ) from None
    return path


def _side_by_side(findings: Findings) -> str:
    """One line a granularity: every run's score, and the later ones' gains with intervals."""
    scores, gains = (
        {(row["granularity"], row["run"]): row for row in table.to_dict("records")}
        for table in (_over_countries(findings, name) for name in ("scores", "gains"))
    )
    first, *others = findings.names
    lines = []
    for granularity in sorted({granularity for granularity, _ in scores}):
        line = {"G": str(granularity), "cells": str(scores[granularity, first]["n_cells"])}
        for name in (*findings.names, *findings.references):
            line[name] = f"{scores[granularity, name]['score']:.1f}"
        for name in others:
            gain = gains[granularity, name]
            line[f"gain of {name} (95 %)"] = (
                f"{gain['gain']:+.1f} [{gain['gain_low']:+.1f}, {gain['gain_high']:+.1f}]"
            )
        lines.append(line)
    return pd.DataFrame(lines).to_string(index=False)


def _effect_distances(findings: Findings) -> pd.DataFrame:
    distances = _over_countries(findings, "effect_distances")
    table = distances.pivot(index="attribute", columns="run", values="distance")[findings.names]
    first = distances[distances["run"] == findings.names[0]].set_index("attribute")
    table = table.assign(**{"no effect": first["distance_no_effect"], "noise": first["floor"]})
    return table.loc[first.index].rename_axis(index=None, columns=None)


def _over_countries(findings: Findings, name: str) -> pd.DataFrame:
    table = findings.tables[name]
    return table[table["country"] == ALL]


if __name__ == "__main__":
    command.run(main)
