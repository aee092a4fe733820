"""The report's tables as files: CSV, Markdown and LaTeX."""

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from ace_jax.evaluation.uncertainty import ALL
from ace_jax.report.findings import Findings

# Names of runs and marks may contain anything; nothing in them may become markup.
_LATEX = str.maketrans(
    {letter: f"\\{letter}" for letter in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}"}
)
# Other Markdown markup starts a line or follows one of these.
_MARKDOWN = re.compile(r"([\\`*_\[\]#|~$])")
GAIN = "Gain"

# A row's name, and the texts of its cells with the best and the second best set apart.
Rows = list[tuple[str, list[str]]]


def write_tables(findings: Findings, directory: Path) -> None:
    """Writes every tidy table as NAME.csv, and Table 1 as table1.md and table1.tex."""
    for name, table in findings.tables.items():
        table.to_csv(directory / f"{name}.csv", index=False, float_format="%.6g")
    (directory / "table1.md").write_text(markdown(findings), encoding="utf-8")
    (directory / "table1.tex").write_text(latex(findings), encoding="utf-8")


def markdown(findings: Findings) -> str:
    """Returns Table 1 in Markdown; the best method of a column is bold."""
    columns = [escape_markdown(name) for name in _columns(findings)]
    lines = [["Method", *columns], ["---", *("---:" for _ in columns)]]
    for granularity in findings.granularities:
        lines.append([f"**G = {granularity}**", *("" for _ in columns)])
        rows = _rows(findings, granularity, "**{}**".format, str)
        lines += [[escape_markdown(name), *texts] for name, texts in rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([table, *map(escape_markdown, _caption(findings))]) + "\n"


def latex(findings: Findings) -> str:
    """Returns Table 1 in LaTeX (booktabs, graphicx); best bold, second underlined."""
    columns = _columns(findings)
    body = [" & ".join(["Method", *map(escape_latex, columns)]) + r" \\"]
    for granularity in findings.granularities:
        body += [r"\midrule", rf"\multicolumn{{{len(columns) + 1}}}{{c}}{{G = {granularity}}} \\"]
        rows = _rows(findings, granularity, r"\textbf{{{}}}".format, r"\underline{{{}}}".format)
        body += [" & ".join([escape_latex(name), *texts]) + r" \\" for name, texts in rows]
    lines = "\n".join(body)
    return rf"""% needs \usepackage{{booktabs}} and \usepackage{{graphicx}}
\begin{{table*}}
\centering
\resizebox{{\textwidth}}{{!}}{{%
\begin{{tabular}}{{l{"r" * len(columns)}}}
\toprule
{lines}
\bottomrule
\end{{tabular}}}}
\caption{{{escape_latex(" ".join(_caption(findings)))}}}
\label{{tab:alignment}}
\end{{table*}}
"""


def escape_latex(text: str) -> str:
    """Returns text that LaTeX sets literally."""
    return " ".join(text.split()).translate(_LATEX)


def escape_markdown(text: str) -> str:
    """Returns text that Markdown sets literally, also in a table."""
    escaped = _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _columns(findings: Findings) -> list[str]:
    countries = sorted(str(code) for code in findings.cells["country"].unique())
    return [*countries, "Avg", GAIN]


def _rows(
    findings: Findings,
    granularity: int,
    best: Callable[[str], str],
    second: Callable[[str], str],
) -> Rows:
    """Returns the rows of one granularity. References are not ranked."""
    scores, gains = (
        findings.tables[name][findings.tables[name]["granularity"] == granularity]
        for name in ("scores", "gains")
    )
    values = scores.pivot(index="run", columns="country", values="score")
    values = values.rename(columns={ALL: "Avg"}).reindex(columns=_columns(findings)[:-1])
    ranks = values.loc[findings.names].rank(ascending=False, method="min")
    gain = gains[gains["country"] == ALL].set_index("run")["gain"]
    rows = []
    for name in (*findings.names, *findings.references):
        texts = []
        for country, value in values.loc[name].items():
            text: str = "--" if pd.isna(value) else f"{value:.2f}"
            ranked = len(findings.names) > 1 and name in findings.names
            place = ranks.at[name, country] if ranked else None
            texts.append(best(text) if place == 1 else second(text) if place == 2 else text)
        texts.append("" if name == findings.names[0] else f"{gain[name]:+.2f}")
        rows.append((name, texts))
    return rows


def _caption(findings: Findings) -> list[str]:
    seeds = ", ".join(f"{name} of {count}" for name, count in findings.seeds.items())
    sentences = [
        f"Alignment scores (0-100, {findings.average} averages) by persona granularity G. Best "
        f"method in bold; {GAIN}: of Avg over {findings.names[0]}."
    ]
    sentences += [f"Means over seeds: {seeds}."] if seeds else []
    return [*sentences, *findings.marks]
