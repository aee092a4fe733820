"""Compares evaluated runs: which answers most like the survey, by how much, and how surely."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ace_jax.errors import InputError
from ace_jax.evaluation.references import REFERENCES
from ace_jax.evaluation.uncertainty import ALL, AVERAGES, Average
from ace_jax.report.findings import Findings, find
from ace_jax.report.headline import headline
from ace_jax.report.page.content import index_html
from ace_jax.report.paper_figures import write_figures
from ace_jax.report.runs import RunLike, on_common_cells, read_runs

AVERAGE, GAIN = "Avg", "Gain"  # columns of Table 1
# Names of runs and marks may contain anything; nothing in them may become markup.
_LATEX = str.maketrans(
    {letter: f"\\{letter}" for letter in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}"}
)


@dataclass(frozen=True)
class Comparison(Findings):
    """Runs side by side. `str()` gives the main tables as text.

    `tables` has every tidy table by name, such as scores, gains, effects (docs/analysis.md).
    """

    @property
    def scores(self) -> pd.DataFrame:
        """Alignment scores (0-100) over countries: methods and references x granularities."""
        scores = self.over_countries("scores")
        table = scores.pivot(index="run", columns="granularity", values="score")
        return table.loc[[*self.names, *self.references]]

    def save_html(self, path: str | Path) -> None:
        """Writes the report as one self-contained page. Raises InputError if it cannot."""
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(index_html(self), encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from None

    def save(self, directory: str | Path) -> None:
        """Writes index.html, every table (CSV), table1.tex and figures/ (PNG and SVG).

        Raises InputError if the directory cannot be made or written.
        """
        directory = Path(directory)
        try:
            (directory / "figures").mkdir(parents=True, exist_ok=True)
            for name, table in self.tables.items():
                table.to_csv(directory / f"{name}.csv", index=False, float_format="%.6g")
            (directory / "table1.tex").write_text(latex(self), encoding="utf-8")
            write_figures(self, directory / "figures")
        except OSError as error:
            raise InputError(
                f"cannot write {directory}: {error.strerror}; name another directory"
            ) from None
        self.save_html(directory / "index.html")

    def __str__(self) -> str:
        parts = [f"- {mark}" for mark in (*self.marks, *self.notes)]
        parts = ["\n".join(["Notes:", *parts])] if parts else []
        parts.append("\n".join(headline(self)))
        title = f"Alignment score (0-100, {self.average}) by granularity, mean over countries:"
        parts += [title, self._labelled(self.scores.map("{:.1f}".format))]
        if len(self.names) > 1:
            title = f"Gain over {self.names[0]}, with 95 % intervals:"
            parts += [title, self._labelled(self._gains())]
        if len(self.slopes):
            finest = self.granularities[-1]
            title = f"Slopes at G = {finest} (0: no difference shown, 1: the survey's):"
            parts += [title, self._slopes().to_string()]
        if "effect_distances" in self.tables:
            title = "Distance between the model's and the survey's effects (lower is better):"
            parts += [title, self._distances().to_string(float_format="{:.4f}".format)]
        return "\n\n".join(parts)

    def _gains(self) -> pd.DataFrame:
        gains = self.over_countries("gains")
        columns = gains[["gain", "gain_low", "gain_high"]].itertuples(index=False)
        texts = [f"{gain:+.1f} [{low:+.1f}, {high:+.1f}]" for gain, low, high in columns]
        table = gains.assign(text=texts).pivot(index="run", columns="granularity", values="text")
        return table.loc[self.names[1:]]

    def _slopes(self) -> pd.DataFrame:
        """Returns methods and references in rows; toggles in columns, slopes with intervals."""
        slopes = self.slopes
        numbers = slopes[["slope", "slope_low", "slope_high"]].itertuples(index=False)
        texts = [
            f"{slope:.2f} [{low:.2f}, {high:.2f}]".replace(" [nan, nan]", "").replace("nan", "--")
            for slope, low, high in numbers
        ]
        table = slopes.assign(text=texts).pivot(index="run", columns="toggle", values="text")
        order = [*self.names, *self.references]
        return table.loc[order, list(dict.fromkeys(slopes["toggle"]))].rename_axis(
            index=None, columns=None
        )

    def _distances(self) -> pd.DataFrame:
        """Returns methods, then what to compare them with, in rows; attributes in columns."""
        every = pd.concat([self.tables["effect_distances"], self.yardsticks])
        over = every[every["country"] == ALL]
        table = over.pivot(index="run", columns="attribute", values="distance")
        names = [one.name for one in self.first.attributes if one.name in table]
        table = table.loc[over["run"].unique(), [*names, ALL]]
        return table.rename_axis(index=None, columns=None)

    def _labelled(self, table: pd.DataFrame) -> str:
        several = {name: count for name, count in self.seeds.items() if count > 1}
        labels = {name: f"{name} ({count} seeds)" for name, count in several.items()}
        table = table.rename(index=labels, columns="G = {}".format)
        return table.rename_axis(index=None, columns=None).to_string()


def compare(
    runs: Mapping[str, RunLike | Sequence[RunLike]], *, average: Average = "nested"
) -> Comparison:
    """Compares runs on the cells that all of them have.

    Args:
      runs: name -> predictions with their record (what `LanguageModel.score` returns), the
        directory that `evaluate` wrote, or a sequence of these: seeds, whose means are shown.
        Gains are over the first one. InputError if one is incomplete or they do not compare.
      average: `nested`, as the authors' code averages, or `flat`: all cells count alike.
    """
    if average not in AVERAGES:
        raise InputError(f"average: {average!r} is not one of {', '.join(AVERAGES)}")
    taken = [name for name in runs if name in (ALL, *REFERENCES)]
    if not runs or taken:
        problem = f"the name {taken[0]} is taken; choose another" if runs else "none is given"
        raise InputError(f"runs: {problem}")
    common, notes = on_common_cells({name: read_runs(name, of) for name, of in runs.items()})
    return Comparison(**vars(find(common, notes, average)))


def latex(findings: Findings) -> str:
    """Returns Table 1 in LaTeX (booktabs, graphicx); best bold, second underlined."""
    table, places = _table_1(findings)
    marks = {1: "textbf:--rwrap;", 2: "underline:--rwrap;"}
    styles = places.map(lambda place: marks.get(place, ""))
    style = table.style.hide(names=True).apply(lambda _: styles, axis=None)
    style = style.format_index(escape_latex, level=1)
    text = style.to_latex(
        column_format="ll" + "r" * table.shape[1],
        hrules=True,
        clines="skip-last;data",
        multirow_align="naive",
        environment="table*",
        position_float="centering",
        caption=escape_latex(_caption(findings)),
        label="tab:alignment",
    )
    text = text.replace(r"\begin{tabular}", "\\resizebox{\\textwidth}{!}{%\n\\begin{tabular}")
    text = text.replace(r"\end{tabular}", r"\end{tabular}}")
    return "% needs \\usepackage{booktabs} and \\usepackage{graphicx}\n" + text


def escape_latex(text: object) -> str:
    """Returns text that LaTeX sets literally."""
    return " ".join(str(text).split()).translate(_LATEX)


def _table_1(findings: Findings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns scores as texts, by granularity and run, and each method's place in its column."""
    key, names = ["granularity", "run"], findings.names
    scores = findings.tables["scores"].pivot(index=key, columns="country", values="score")
    scores = scores[[*scores.columns.drop(ALL), ALL]].rename(columns={ALL: AVERAGE})
    scores, order = scores.rename_axis(columns=None), [*names, *findings.references]
    scores = scores.reindex(pd.MultiIndex.from_product([findings.granularities, order], names=key))
    methods = scores[scores.index.isin(names, level="run")]
    places = methods.groupby("granularity").rank(ascending=False, method="min")
    gains = findings.over_countries("gains").set_index(key)["gain"].map("{:+.2f}".format)
    gains = gains.where(gains.index.get_level_values("run") != names[0], "")
    table = scores.map("{:.2f}".format).replace("nan", "--").assign(**{GAIN: gains})
    ranked = places if len(names) > 1 else places.iloc[:0]
    return table, ranked.reindex(table.index, columns=table.columns)


def _caption(findings: Findings) -> str:
    sentences = [
        f"Alignment scores (0-100, {findings.average} averages) by persona granularity G. Best "
        f"method in bold; {GAIN}: of {AVERAGE} over {findings.names[0]}."
    ]
    if findings.seeds:
        seeds = ", ".join(f"{name} of {count}" for name, count in findings.seeds.items())
        sentences.append(f"Means over seeds: {seeds}.")
    return " ".join([*sentences, *findings.marks])
