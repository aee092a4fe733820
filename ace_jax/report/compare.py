"""Compares evaluated runs: which answers most like the survey, by how much, and how surely."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ace_jax.errors import InputError
from ace_jax.evaluation.references import REFERENCES
from ace_jax.evaluation.uncertainty import ALL, AVERAGES, Average
from ace_jax.report.figures import write_figures
from ace_jax.report.findings import Findings, find, headline
from ace_jax.report.page.content import index_html
from ace_jax.report.runs import RunLike, on_common_cells, read_runs


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
        """Writes index.html, every table (CSV) and figures/ (PNG and SVG).

        Raises InputError if the directory cannot be made or written.
        """
        directory = Path(directory)
        try:
            (directory / "figures").mkdir(parents=True, exist_ok=True)
            for name, table in self.tables.items():
                table.to_csv(directory / f"{name}.csv", index=False, float_format="%.6g")
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
        parts.append(f"Alignment score (0-100, {self.average}) by granularity, over countries:")
        parts.append(self._labelled(self.scores.map("{:.1f}".format)))
        if len(self.names) > 1:
            gains = self._texts(self.over_countries("gains"), "gain", "granularity", "+.1f")
            parts.append(f"Gain over {self.names[0]}, with 95 % intervals:")
            parts.append(self._labelled(gains.loc[self.names[1:]]))
        if len(slopes := self.finest("slopes")):
            finest, toggles = self.granularities[-1], slopes["toggle"].unique()
            table = self._texts(slopes, "slope", "toggle", ".2f")
            parts.append(f"Slopes at G = {finest} (0: no difference shown, 1: the survey's):")
            parts.append(table.loc[[*self.names, *self.references], toggles].to_string())
        if "effect_distances" in self.tables:
            parts.append("Distance between the model's and the survey's effects (lower is better):")
            parts.append(self._distances().to_string(float_format="{:.4f}".format))
        return "\n\n".join(parts)

    def _texts(self, table: pd.DataFrame, of: str, columns: str, digits: str) -> pd.DataFrame:
        """Returns values with their intervals as texts: a row a run."""
        numbers = table[[of, f"{of}_low", f"{of}_high"]].map(f"{{:{digits}}}".format)
        texts = [
            f"{middle} [{low}, {high}]".replace(" [nan, nan]", "").replace("nan", "--")
            for middle, low, high in numbers.itertuples(index=False)
        ]
        table = table.assign(text=texts).pivot(index="run", columns=columns, values="text")
        return table.rename_axis(index=None, columns=None)

    def _distances(self) -> pd.DataFrame:
        """Returns methods, then what to compare them with, in rows; attributes in columns."""
        every = pd.concat([self.tables["effect_distances"], self.yardsticks])
        over = every[every["country"] == ALL]
        table = over.pivot(index="run", columns="attribute", values="distance")
        names = [one.name for one in self.first.attributes if one.name in table]
        table = table.loc[over["run"].unique(), [*names, ALL]]
        return table.rename_axis(index=None, columns=None)

    def _labelled(self, table: pd.DataFrame) -> str:
        several = {name: len(runs) for name, runs in self.methods.items() if len(runs) > 1}
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
