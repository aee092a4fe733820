"""What the page says: findings as the data that its script reads."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ace_jax import __version__
from ace_jax.evaluation.distributions import Distributions
from ace_jax.evaluation.uncertainty import ALL
from ace_jax.prompts.encode import country_name
from ace_jax.report.findings import EPSILON, NO_EFFECT, NOISE_FLOOR, Findings
from ace_jax.report.notes import NO_TOPIC
from ace_jax.report.page.build import columns, page
from ace_jax.report.page.pack import Grid, Packed, pack

# The columns of each table that the page needs; it shortens the names of intervals.
INTERVALS = ("ci", "gain", "difference", "distance")
SHORTER = {f"{name}_{end}": end for name in INTERVALS for end in ("low", "high")}
KEPT = {
    "scores": "run country topic granularity n_cells score ci_low ci_high ceiling",
    "levels": "run country granularity attribute level score",
    "gains": "run country granularity gain gain_low gain_high p_value n_questions n_seeds seed_sd",
    "differences": "granularity run other difference difference_low difference_high p_value clear",
    "tiers": "run granularity tier score",
    "composition": "run country persona topic score ci_low ci_high",
    "effects": "run country attribute topic data_effect model_effect data_size",
    "effect_distances": "run country attribute distance distance_low distance_high",
    "classes": "run country epsilon class share",
    "transitions": "run before after share",
    "audit": "run variant granularity score moved option_mass",
}


def index_html(findings: Findings) -> str:
    """Returns the whole page."""
    packed, personas = _answers(findings)
    data = {
        **_overview(findings),
        "personas": personas,
        "packing": packed and {"levels": packed.levels},
        "tables": {name: columns(table) for name, table in _tables(findings).items()},
    }
    title = f"{' · '.join(findings.names)}: answers beside the survey's"
    return page(title, data, packed.chunks if packed else ())


def _overview(findings: Findings) -> dict[str, Any]:
    """Returns everything except tables and answers: names, choices, notes."""
    cells, attributes = findings.cells, findings.attributes
    granularities = list(map(str, findings.granularities))
    countries = sorted(str(code) for code in cells["country"].unique())
    best = findings.best(findings.granularities[-1])
    questions = findings.questions.assign(topic=findings.questions["topic"].replace(NO_TOPIC, ""))
    renamed = questions.rename(columns={"question_id": "id", "option_labels": "options"})
    personas = {f"p.{attribute.name}": "" for attribute in attributes}
    return {
        "survey": ", ".join(sorted({str(of) for of in cells.get("source", ["survey"])})),
        "made": f"Made by ace_jax {__version__} from {len(cells):,} cells a run.",
        "average": findings.average,
        "epsilon": EPSILON,
        "runs": [
            {"name": one.name, "what": what([run.identity for run in one.seeds])}
            for one in findings.methods
        ],
        "references": list(findings.references),
        "countries": [{"code": code, "name": country_name(code)} for code in countries],
        "topics": sorted(set(findings.questions["topic"])) if findings.has_topics else [],
        "attributes": [{"name": one.name, "levels": list(one.levels)} for one in attributes],
        "granularities": granularities,
        "questions": renamed.to_dict("records"),
        "start": {
            "country": ALL,
            "topic": ALL,
            "attribute": ALL,
            "granularity": granularities[-1],
            "epsilon": f"{EPSILON:g}",
            "method": best if best != findings.names[0] else findings.names[-1],
            "question": str(questions["question_id"].iloc[0]),
            "q.country": countries[0],
            "toggle": "",
            **personas,
            f"p.{attributes[0].name}": attributes[0].levels[-1],
        },
        "marks": list(findings.marks),
        "notes": list(findings.notes),
    }


def what(identities: Sequence[Mapping[str, Any]]) -> str:
    """Returns one line on what a method's runs evaluated; values that differ are listed."""
    parts = zip(*map(_parts, identities), strict=True)
    return ", ".join(" / ".join(dict.fromkeys(of)) for of in parts if any(of))


def _parts(identity: Mapping[str, Any]) -> list[str]:
    model, adapter = identity.get("model") or {}, identity.get("adapter")
    quantized = model.get("quantization") not in (None, "none")
    prompt, data = identity.get("prompt") or {}, identity.get("data") or {}
    return [
        str(model.get("name", "model not recorded")),
        str(model["quantization"] if quantized else model.get("dtype", "")),
        f"adapter {adapter['path']} ({adapter['sha256'][:8]})" if adapter else "no adapter",
        f"template {prompt['template']}" if prompt.get("template") else "",
        f"{data.get('split', 'all')} of {data.get('path', '')} (hold-out {data.get('holdout')})",
        f"seed {identity.get('seed')}",
    ]


def _tables(findings: Findings) -> dict[str, pd.DataFrame]:
    tables = dict(findings.tables)
    scores = tables["scores"].assign(topic=ALL)
    tables["scores"] = pd.concat([scores, tables["topics"]]) if findings.has_topics else scores
    if "effect_distances" in tables:
        tables["effect_distances"] = _with_yardsticks(tables["effect_distances"])
    kept = {}
    for name, wanted in KEPT.items():
        if name in tables:
            table = tables[name]
            table = table[[column for column in wanted.split() if column in table]]
            if "granularity" in table:
                table = table.astype({"granularity": str})
            kept[name] = table.rename(columns=SHORTER)
    return kept


def _with_yardsticks(distances: pd.DataFrame) -> pd.DataFrame:
    """Adds rows to compare effect distances with, in the place of methods."""
    first = distances[distances["run"] == distances["run"].iloc[0]]
    yardsticks = {NO_EFFECT: "distance_no_effect", NOISE_FLOOR: "floor"}
    rows = [
        first.assign(run=name, distance=first[column], distance_low=np.nan, distance_high=np.nan)
        for name, column in yardsticks.items()
    ]
    return pd.concat([distances, *rows], ignore_index=True)


def _answers(findings: Findings) -> tuple[Packed | None, list[list[int]]]:
    """Returns the packed answers, and the personas as the place of each level, or -1."""
    cells = findings.cells
    codes = [
        pd.Categorical(cells[attribute.name], attribute.levels).codes
        for attribute in findings.attributes
    ]
    levels = np.stack(codes, axis=1).astype(np.int64)
    personas, persona = np.unique(levels, axis=0, return_inverse=True)
    country, countries = pd.factorize(cells["country"], sort=True)
    grid = Grid(
        pd.Index(findings.questions["question_id"]).get_indexer(cells["question_id"]),
        country,
        persona.reshape(-1),
        cells["n"].to_numpy(),
        findings.questions["option_labels"].map(len).to_numpy(),
        len(countries),
        len(personas),
    )
    answers = [cells["p_data"], *(one.p_model for one in findings.methods)]
    return pack(grid, [Distributions.of(of).p for of in answers]), personas.tolist()
