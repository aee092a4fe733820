"""Tables to read, paste or go on with: CSV, Markdown and LaTeX."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ace_jax.report.findings import ALL, Findings

# Text of surveys and names of runs may hold anything; none of it may become markup.
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}
# What else is markup begins a line, or follows one of these.
_MARKDOWN = re.compile(r"([\\`*_\[\]#|~$])")


@dataclass(frozen=True)
class Block:
    """A part of a table with a heading of its own.

    `values`: rows are methods, columns what they are scored on. `notes`: text behind a row's last
    value, by row.
    """

    heading: str
    values: pd.DataFrame
    notes: dict[str, str]


def write_tables(findings: Findings, directory: Path) -> None:
    """Writes every tidy table as NAME.csv, and Table 1 as table1.md and table1.tex."""
    for name, table in findings.tables.items():
        table.to_csv(directory / f"{name}.csv", index=False, float_format="%.6g")
    blocks = table_one(findings)
    (directory / "table1.md").write_text(markdown(blocks, findings), encoding="utf-8")
    (directory / "table1.tex").write_text(latex(blocks, findings), encoding="utf-8")


def table_one(findings: Findings) -> tuple[Block, ...]:
    """Returns the paper's Table 1: a block a granularity, methods x countries and their mean."""
    scores, gains = findings.tables["scores"], findings.tables["gains"]
    order = [*findings.names, *findings.references]
    blocks = []
    for granularity, rows in scores.groupby("granularity"):
        values = rows.pivot(index="run", columns="country", values="score").reindex(order)
        countries = sorted(str(code) for code in values if code != ALL)
        values = values[[*countries, ALL]].rename(columns={ALL: "Avg"})
        over = gains[(gains["granularity"] == granularity) & (gains["country"] == ALL)]
        notes = {
            str(row["run"]): f"({row['gain']:+.2f})"
            for row in over.to_dict("records")
            if row["run"] != findings.names[0]
        }
        blocks.append(Block(f"G = {granularity}", values, notes))
    return tuple(blocks)


def markdown(blocks: Sequence[Block], findings: Findings) -> str:
    """Returns the blocks as one Markdown table; the best method of a column is bold."""
    columns = [escape_markdown(str(name)) for name in blocks[0].values.columns]
    lines = [_row("Method", *columns), _row("---", *("---:" for _ in columns))]
    for block in blocks:
        lines.append(_row(f"**{escape_markdown(block.heading)}**", *("" for _ in columns)))
        cells = _cells(block, findings.names, "**{}**".format, "{}".format)
        lines += [_row(escape_markdown(name), *texts) for name, texts in cells]
    return "\n".join(lines) + f"\n\n{_caption(findings)}\n"


def latex(blocks: Sequence[Block], findings: Findings) -> str:
    """Returns the blocks as a LaTeX table (booktabs, graphicx); best bold, second underlined."""
    columns = list(blocks[0].values.columns)
    body = [r"\toprule", " & ".join(["Method", *map(escape_latex, columns)]) + r" \\"]
    for block in blocks:
        heading = escape_latex(block.heading)
        body += [r"\midrule", rf"\multicolumn{{{len(columns) + 1}}}{{c}}{{{heading}}} \\"]
        cells = _cells(block, findings.names, r"\textbf{{{}}}".format, r"\underline{{{}}}".format)
        body += [" & ".join([escape_latex(name), *texts]) + r" \\" for name, texts in cells]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs} and \usepackage{graphicx}",
            r"\begin{table*}",
            r"\centering",
            r"\resizebox{\textwidth}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            rf"\caption{{{escape_latex(_caption(findings))}}}",
            r"\label{tab:alignment}",
            r"\end{table*}",
            "",
        ]
    )


def escape_latex(text: str) -> str:
    """Returns text that LaTeX sets as it is."""
    return "".join(_LATEX.get(letter, letter) for letter in _one_line(text))


def escape_markdown(text: str) -> str:
    """Returns text that Markdown, in a table, sets as it is."""
    escaped = _MARKDOWN.sub(r"\\\1", _one_line(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cells(
    block: Block, methods: Sequence[str], best: Callable[[str], str], second: Callable[[str], str]
) -> list[tuple[str, list[str]]]:
    """Returns the texts of every row. Methods compete; references do not."""
    values = block.values
    ranks = values.loc[list(methods)].rank(ascending=False, method="min").reindex(values.index)
    if len(methods) == 1:
        ranks[:] = np.nan
    rows = []
    for name, its, places in zip(
        map(str, values.index), values.to_numpy(), ranks.to_numpy(), strict=True
    ):
        texts = []
        for value, place in zip(its, places, strict=True):
            text = "--" if np.isnan(value) else f"{value:.2f}"
            texts.append(best(text) if place == 1 else second(text) if place == 2 else text)
        if note := block.notes.get(name):
            texts[-1] += f" {note}"
        rows.append((name, texts))
    return rows


def _caption(findings: Findings) -> str:
    of_seeds = ", ".join(f"{name} of {count}" for name, count in findings.seeds.items())
    return (
        f"Alignment scores (0-100, {findings.average} averages) by persona granularity G. Best "
        f"method in bold; in brackets the gain over {findings.names[0]}."
    ) + (f" Means over seeds: {of_seeds}." if of_seeds else "")


def _row(*texts: str) -> str:
    return f"| {' | '.join(texts)} |"


def _one_line(text: str) -> str:
    return " ".join(text.split())
