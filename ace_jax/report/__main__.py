"""Sets evaluated runs side by side: which answers most like the survey, by how much, how surely.

    python -m ace_jax.report --run base=runs/base --run trained=runs/trained --output runs/report

The first run is the one that the others are compared with. A name given again, with another OUT,
is a further seed of that method: means over its seeds are shown. Writes into OUTPUT: index.html,
one page that needs nothing else; *.csv, every number as tidy tables; table1.md and table1.tex;
figures/, as PNG and SVG.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ace_jax import command
from ace_jax.errors import InputError
from ace_jax.evaluation.uncertainty import AVERAGES
from ace_jax.report.findings import ALL, NO_EFFECT, NOISE_FLOOR, Findings, find
from ace_jax.report.page.content import index_html
from ace_jax.report.paper_figures import write_figures
from ace_jax.report.runs import Method, on_common_cells, read_method
from ace_jax.report.tables import write_tables
from ace_jax.runtime.progress import log as say


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the whole job; see the module's docstring."""
    options = _parse(argv)
    methods = _read(options.run)
    output = _directory(Path(options.output))
    common, notes = on_common_cells(methods)
    for note in notes:
        say(note)
    say(f"comparing {len(common)} methods on {len(common[0].first.predictions):,} cells")
    findings = find(common, notes, options.average)
    say("writing tables, figures and the page")
    try:
        write_tables(findings, output)
        write_figures(findings, output / "figures")
        (output / "index.html").write_text(index_html(findings), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {output}: {error.strerror}") from None
    print(f"Alignment score (0-100, {findings.average}) by granularity, mean over countries:\n")
    print(_scores(findings).to_string())
    if len(findings.names) > 1:
        print(f"\nGain over {findings.names[0]}, with 95 % intervals:\n")
        print(_gains(findings).to_string())
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
        help="a name and what evaluate wrote; the first run is the one to compare with, the same "
        "name again another seed of that method",
    )
    parser.add_argument(
        "--average",
        choices=AVERAGES,
        default="nested",
        help="nested: as the authors' code averages (default); flat: every cell alike",
    )
    parser.add_argument("--output", required=True, help="directory; made if needed")
    return parser.parse_args(argv)


def _read(arguments: Sequence[str]) -> list[Method]:
    named: dict[str, list[Path]] = {}
    for argument in arguments:
        name, equals, directory = argument.partition("=")
        if not (name.strip() and equals and directory):
            raise InputError(f"--run {argument}: write NAME=OUT, for example base=runs/base")
        outs, out = named.setdefault(name, []), Path(directory)
        if name == ALL:
            raise InputError(f"--run {argument}: the name {name} is taken; give it another")
        if out.resolve() in (known.resolve() for known in outs):
            raise InputError(f"--run {argument}: is given twice; a further seed has its own OUT")
        outs.append(out)
    return [read_method(name, outs) for name, outs in named.items()]


def _directory(path: Path) -> Path:
    try:
        (path / "figures").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--output {path}: cannot be made ({error.strerror}); name another directory"
        ) from None
    return path


def _scores(findings: Findings) -> pd.DataFrame:
    """Methods and references in rows, granularities in columns."""
    scores = _over_countries(findings, "scores")
    table = scores.pivot(index="run", columns="granularity", values="score").map("{:.1f}".format)
    return _labelled(table.loc[[*findings.names, *findings.references]], findings)


def _gains(findings: Findings) -> pd.DataFrame:
    gains = _over_countries(findings, "gains")
    texts = [
        f"{gain:+.1f} [{low:+.1f}, {high:+.1f}]"
        for gain, low, high in zip(
            gains["gain"], gains["gain_low"], gains["gain_high"], strict=True
        )
    ]
    table = gains.assign(text=texts).pivot(index="run", columns="granularity", values="text")
    return _labelled(table.loc[findings.names[1:]], findings)


def _labelled(table: pd.DataFrame, findings: Findings) -> pd.DataFrame:
    several = {name: count for name, count in findings.seeds.items() if count > 1}
    table = table.rename(
        index={name: f"{name} ({count} seeds)" for name, count in several.items()},
        columns="G = {}".format,
    )
    return table.rename_axis(index=None, columns=None)


def _effect_distances(findings: Findings) -> pd.DataFrame:
    """Methods in rows and what they are to be read against, attributes in columns."""
    distances = _over_countries(findings, "effect_distances")
    table = distances.pivot(index="run", columns="attribute", values="distance")
    first = distances[distances["run"] == findings.names[0]].set_index("attribute")
    table.loc[NO_EFFECT] = first["distance_no_effect"]
    table.loc[NOISE_FLOOR] = first["floor"]
    attributes = [one.name for one in findings.attributes if one.name in table]
    table = table.loc[[*findings.names, NO_EFFECT, NOISE_FLOOR], [*attributes, ALL]]
    return table.rename_axis(index=None, columns=None)


def _over_countries(findings: Findings, name: str) -> pd.DataFrame:
    table = findings.tables[name]
    return table[table["country"] == ALL]


if __name__ == "__main__":
    command.run(main)
