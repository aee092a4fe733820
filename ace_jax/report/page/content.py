"""One self-contained index.html: no network, all data, style and script inside it.

The answers of every cell are packed, so that they fit (explorer.js unpacks them). Each question has
a chunk, so that the page unpacks only what is looked at. A chunk holds n of every country x persona
(uint32). Then follow, for every source (the survey, then the methods), country and option but the
last, the cumulative shares of all personas (uint8, 255 is everything). Each share is stored as the
step from the one before, wrapping around, because neighbouring personas answer alike. The chunk is
deflated and encoded in base64.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from markupsafe import Markup

from ace_jax import __version__
from ace_jax.evaluation.alignment import Distributions
from ace_jax.evaluation.references import ORACLES
from ace_jax.evaluation.uncertainty import ALL
from ace_jax.prompts.language import country_name
from ace_jax.report.findings import Findings, headline

SCRIPTS = ("core", "charts", "tables", "overview", "sections", "explorer", "main")
LARGEST = 11_500_000  # characters of base64, of the 15 MB that a page may have
# The columns of each table that the page needs; it shortens the names of intervals.
INTERVALS = ("ci", "gain", "difference", "distance", "slope")
SHORTER = {f"{name}_{end}": end for name in INTERVALS for end in ("low", "high")}
KEPT = {
    "scores": "run country topic granularity n_cells score ci_low ci_high ceiling",
    "gains": "run country granularity gain gain_low gain_high p_value n_questions n_seeds seed_sd",
    "differences": "granularity run other difference difference_low difference_high p_value",
    "tiers": "run granularity tier score",
    "composition": "run country persona topic score ci_low ci_high",
    "effects": "run question_id topic attribute combination data_effect data_se model_effect "
    "data_size",
    "slopes": "run country granularity toggle slope slope_low slope_high verdict",
    "effect_distances": "run country attribute distance distance_low distance_high",
    "classes": "run country class share",
    "order_gaps": "run question_id gap",
}


def index_html(findings: Findings) -> str:
    """Returns the whole page."""
    chunks, personas = _answers(findings)
    fits = sum(map(len, chunks)) <= LARGEST
    data = {
        **_overview(findings),
        "personas": personas,
        "explorer": fits,
        "tables": _tables(findings),
    }
    return page(f"{' · '.join(findings.names)}: answers beside the survey's", data, chunks * fits)


def page(title: str, data: Mapping[str, Any], chunks: Sequence[str]) -> str:
    """Returns the page; no text in `title` or `data` can end the element that holds it."""
    environment = jinja2.Environment(autoescape=True, keep_trailing_newline=True)
    options = {"separators": (",", ":"), "allow_nan": False}
    environment.policies["json.dumps_kwargs"] = options
    script = "\n".join(_file(f"{name}.js") for name in SCRIPTS)
    return environment.from_string(_file("index.html")).render(
        title=title,
        style=Markup(_file("style.css")),
        data=data,
        chunks=chunks,
        script=Markup(f'"use strict";\n(() => {{\n{script}\nmain();\n}})();'),
    )


def pack(
    cells: Int[np.ndarray, "cells 4"],
    sources: Sequence[Float[np.ndarray, "cells longest"]],
    options: Int[np.ndarray, "questions"],
) -> tuple[str, ...]:
    """Returns a chunk for each question, of which `options` says K.

    `cells` holds the places of each cell's question, country and persona, and its n; a source is
    one distribution a cell, padded with zeros to the longest.
    """
    cumulative = np.stack([np.clip(np.cumsum(source, axis=1), 0, 1) for source in sources])
    countries, personas = cells[:, 1:3].max(axis=0) + 1
    chunks = []
    for question, k in enumerate(options):
        rows = np.flatnonzero(cells[:, 0] == question)
        _, country, persona, count = cells[rows].T
        n = np.zeros((countries, personas), "<u4")
        n[country, persona] = count
        shares = np.zeros((len(sources), countries, k - 1, personas), np.uint8)
        for source, of in enumerate(cumulative):
            # With a slice between two index arrays, numpy puts the slice's axis last.
            shares[source, country, :, persona] = np.round(255 * of[rows, : k - 1])
        steps = np.diff(shares, axis=-1, prepend=np.uint8(0))
        chunk = zlib.compress(n.tobytes() + steps.tobytes(), 6)
        chunks.append(base64.b64encode(chunk).decode())
    return tuple(chunks)


def what(identities: Sequence[Mapping[str, Any]]) -> str:
    """Returns one line on what a method's runs evaluated; values that differ are listed."""
    parts = zip(*map(_parts, identities), strict=True)
    return ", ".join(" / ".join(dict.fromkeys(of)) for of in parts if any(of))


def _parts(identity: Mapping[str, Any]) -> list[str]:
    model, adapter = identity.get("model") or {}, identity.get("adapter")
    quantized = model.get("quantization") not in (None, "none")
    prompt, data = identity.get("prompt") or {}, identity["data"]
    return [
        str(model.get("name", "no model")),
        str(model["quantization"] if quantized else model.get("dtype", "")),
        f"adapter {adapter['path']} ({adapter['sha256'][:8]})" if adapter else "no adapter",
        f"template {prompt['template']}" if prompt.get("template") else "",
        f"{data.get('split', 'all')} of {data.get('path', '')} (hold-out {data.get('holdout')})",
        f"seed {identity['seed']}",
    ]


def _overview(findings: Findings) -> dict[str, Any]:
    """Returns everything except tables and answers: names, choices, notes."""
    cells, attributes = findings.first.predictions, findings.first.attributes
    granularities = list(map(str, findings.granularities))
    countries = sorted(str(code) for code in cells["country"].unique())
    questions = findings.questions
    renamed = questions.rename(columns={"question_id": "id", "option_labels": "options"})
    personas = {f"p.{attribute.name}": "" for attribute in attributes}
    return {
        "survey": ", ".join(sorted({str(of) for of in cells.get("source", ["survey"])})),
        "made": f"Made by ace_jax {__version__} from {len(cells):,} cells a run.",
        "average": findings.average,
        "said": headline(findings),
        "runs": [
            {"name": name, "what": what([run.identity for run in runs])}
            for name, runs in findings.methods.items()
        ],
        "references": list(findings.references),
        "oracles": list(ORACLES),
        "countries": [{"code": code, "name": country_name(code)} for code in countries],
        "topics": sorted(set(questions["topic"])),
        "attributes": [{"name": one.name, "levels": list(one.levels)} for one in attributes],
        "granularities": granularities,
        "questions": renamed[["id", "topic", "text", "options"]].to_dict("records"),
        "start": {
            "country": ALL,
            "topic": ALL,
            "attribute": ALL,
            "granularity": granularities[-1],
            "method": findings.shown,
            "question": str(questions["question_id"].iloc[0]),
            "q.country": countries[0],
            "toggle": "",
            **personas,
            f"p.{attributes[0].name}": attributes[0].levels[-1],
        },
        "marks": list(findings.marks),
        "notes": list(findings.notes),
    }


def _tables(findings: Findings) -> dict[str, Any]:
    """Returns the columns and rows of each table that the page needs."""
    tables = dict(findings.tables)
    tables["scores"] = pd.concat([tables["scores"].assign(topic=ALL), tables["topics"]])
    if "effect_distances" in tables:
        bare = findings.yardsticks.drop(columns=["distance_low", "distance_high"])
        tables["effect_distances"] = pd.concat([tables["effect_distances"], bare])
    if "effects" in tables:
        tables["effects"] = findings.over_countries("effects").query("run in @findings.names")
    split = {}
    for name, wanted in KEPT.items():
        if name in tables:
            table = tables[name].filter(wanted.split()).rename(columns=SHORTER)
            # Granularities are texts, as in the page's choices.
            table = table.astype({column: str for column in table if column == "granularity"})
            text = table.to_json(orient="split", index=False, double_precision=6)
            split[name] = json.loads(text)
    return split


def _answers(findings: Findings) -> tuple[tuple[str, ...], list[list[int]]]:
    """Returns the packed answers, and the personas as the place of each level, or -1."""
    cells, questions = findings.first.predictions, findings.questions
    codes = [
        pd.Categorical(cells[attribute.name], attribute.levels).codes
        for attribute in findings.first.attributes
    ]
    levels = np.stack(codes, axis=1).astype(np.int64)
    personas, persona = np.unique(levels, axis=0, return_inverse=True)
    question = pd.Index(questions["question_id"]).get_indexer(cells["question_id"])
    country, _ = pd.factorize(cells["country"], sort=True)
    places = np.stack([question, country, persona.reshape(-1), cells["n"]], axis=1)
    sources = [Distributions.of(cells["p_data"]).p]
    for runs in findings.methods.values():  # a method's answer is the mean of its seeds'
        seeds = [Distributions.of(run.predictions["p_model"]).p for run in runs]
        sources.append(np.mean(seeds, axis=0))
    options = questions["option_labels"].map(len).to_numpy()
    return pack(places.astype(np.int64), sources, options), personas.tolist()


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
