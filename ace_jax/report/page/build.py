"""One self-contained index.html: no network, all data, style and script inside it."""

import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any

import pandas as pd

SCRIPTS = ("core", "charts", "tables", "overview", "sections", "explorer", "main")


def page(title: str, data: Mapping[str, Any], chunks: Sequence[str]) -> str:
    """Returns the page.

    Args:
      title: of the document; escaped here.
      data: for the script (`core.js`); escaped here.
      chunks: `pack.Packed.chunks`.
    """
    script = "\n".join(_file(f"{name}.js") for name in SCRIPTS)
    return Template(_file("index.html")).substitute(
        title=_escaped(title),
        style=_file("style.css"),
        data=embedded(data),
        chunks="\n".join(
            f'<script type="text/plain" id="chunk-{place}">{chunk}</script>'
            for place, chunk in enumerate(chunks)
        ),
        script=f'"use strict";\n(() => {{\n{script}\nmain();\n}})();',
    )


def columns(table: pd.DataFrame) -> dict[str, Any]:
    """Returns a table by columns; texts as distinct values (`of`) and positions in them (`at`)."""
    return {str(name): _column(table[name]) for name in table.columns}


def embedded(data: object) -> str:
    """Returns JSON for a script element; no text in it can end the element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return (
        text.replace("<", "\\u003c")
        .replace(">", "\\u003e")
        .replace("&", "\\u0026")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )


def _column(column: pd.Series) -> Any:
    if pd.api.types.is_bool_dtype(column):
        return [bool(value) for value in column]
    if pd.api.types.is_numeric_dtype(column):
        return [_number(value) for value in column.tolist()]
    places, texts = pd.factorize(column.astype(object).where(column.notna(), ""))
    return {"of": [str(text) for text in texts], "at": places.tolist()}


def _number(value: int | float) -> int | float | None:
    if not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.5g}")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
