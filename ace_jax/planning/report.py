"""A plan as text: facts, one table, whether each step fits, assumptions."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ace_jax.planning.collectives import KINDS


def text(plan: Mapping[str, Any]) -> str:
    """Lays out what `ace_jax.plan.plan` returns."""
    columns = {f"{name} step": _column(step) for name, step in plan["steps"].items()}
    rows = list(dict.fromkeys(row for column in columns.values() for row in column))
    table = pd.DataFrame(columns, index=rows).fillna("-")
    return "\n\n".join(
        [
            "\n".join(f"{name:<12}{fact}" for name, fact in plan["facts"].items()),
            table[(table != "-").any(axis=1)].to_string(),
            "\n".join(f"{name}: {step['verdict']}" for name, step in plan["steps"].items()),
            "\n".join(["Assumptions", *(f"- {sentence}" for sentence in plan["assumptions"])]),
        ]
    )


def _column(step: Mapping[str, Any]) -> dict[str, str]:
    sizes = step["arguments"] | {"temporaries": step["temporaries"], "peak": step["peak"]}
    column = {
        **{f"{part}, GB a device": _short(size / 1e9) for part, size in sizes.items()},
        "TFLOP": _short(step["flops"] / 1e12),
        "TFLOP a device": _short(step["flops_per_device"] / 1e12),
    }
    for kind in KINDS:
        found = (step["collectives"] or {}).get(kind)
        column[f"{kind}, MB sent a device"] = (
            f"{found['times']} x, {_short(found['sent'] / 1e6)}" if found else "-"
        )
    if step["seconds"]:
        column["ms a step, at best"] = _short(1e3 * max(step["seconds"].values()))
        for part, seconds in step["seconds"].items():
            column[f"  {part}"] = _short(1e3 * seconds)
        column[f"{step['unit']} a second"] = _short(step["per_second"])
    return column


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
