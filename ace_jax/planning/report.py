"""What a plan says, as plain text and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ace_jax.planning.collectives import KINDS, by_kind
from ace_jax.planning.program import Program
from ace_jax.planning.roofline import Estimate


@dataclass(frozen=True)
class Planned:
    """A program with what was made of it.

    Attributes:
      name: `train` or `score`.
      program: as compiled.
      estimate: its time; None where the device is this machine's CPU.
      work: what one call does, for example ("pairs", 256).
      verdict: whether it fits; None where nothing says what a device holds.
    """

    name: str
    program: Program
    estimate: Estimate | None
    work: tuple[str, int]
    verdict: str | None

    @property
    def rate(self) -> float | None:
        """Pairs or cells a second."""
        return self.work[1] / self.estimate.seconds if self.estimate else None


@dataclass(frozen=True)
class Plan:
    """Everything that is printed.

    Attributes:
      facts: what is planned: model, devices, mesh, parameters.
      devices: how many.
      programs: of training and of scoring.
      assumptions: a sentence each.
    """

    facts: Mapping[str, str]
    devices: int
    programs: Sequence[Planned]
    assumptions: Sequence[str]

    def json(self) -> dict[str, Any]:
        """Returns the plan in bytes, operations and seconds."""
        return {
            "facts": dict(self.facts),
            "devices": self.devices,
            "assumptions": list(self.assumptions),
            **{planned.name: _json(planned) for planned in self.programs},
        }

    def text(self) -> str:
        """Returns the plan as aligned columns."""
        width = max(map(len, self.facts))
        lines = [f"{name:<{width}}  {fact}" for name, fact in self.facts.items()]
        rows = _rows(self.programs, self.devices)
        label = max(len(row[0]) for row in rows)
        column = max(len(value) for row in rows for value in row[1:]) + 2
        lines.append("")
        for name, *values in rows:
            lines.append(f"{name:<{label}}" + "".join(f"{value:>{column}}" for value in values))
        lines.append("")
        lines += [f"{one.name}: {one.verdict}" for one in self.programs if one.verdict]
        lines += ["", "Assumptions", *(f"- {assumption}" for assumption in self.assumptions)]
        return "\n".join(line.rstrip() for line in lines)


def _rows(programs: Sequence[Planned], devices: int) -> list[list[str]]:
    kinds = [by_kind(one.program.collectives or ()) for one in programs]
    parts = list(dict.fromkeys(part for one in programs for part in one.program.arguments))
    shown = [
        ["GB a device", *(f"{one.name} step" for one in programs)],
        *(
            [f"  {part}", *(_gb(one.program.arguments.get(part, 0)) for one in programs)]
            for part in parts
        ),
        ["  temporaries", *(_gb(one.program.temporaries) for one in programs)],
        ["  peak", *(_gb(one.program.peak) for one in programs)],
        ["TFLOP", *(_short(one.program.flops / 1e12) for one in programs)],
        ["  a device", *(_short(one.program.flops / devices / 1e12) for one in programs)],
        ["collectives, MB sent a device", *("" for _ in programs)],
    ]
    for kind in KINDS:
        if any(kind in found for found in kinds):
            shown.append([f"  {kind}", *(_collective(found.get(kind)) for found in kinds)])
    if all(one.program.collectives is None for one in programs):
        shown.append(["  not known: it was not compiled to the end", *("" for _ in programs)])
    if all(one.estimate for one in programs):
        shown.append(["ms a step, at best", *(_ms(one, "seconds") for one in programs)])
        for part in ("compute", "memory", "links"):
            shown.append([f"  {part}", *(_ms(one, part) for one in programs)])
        shown.append(["a second", *(f"{_short(one.rate or 0)} {one.work[0]}" for one in programs)])
    return shown


def _collective(found: tuple[int, float] | None) -> str:
    return f"{found[0]} x, {_short(found[1] / 1e6)}" if found else "-"


def _ms(planned: Planned, part: str) -> str:
    return _short(1e3 * getattr(planned.estimate, part))


def _gb(size: float | int) -> str:
    return _short(size / 1e9)


def _short(number: float | int) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _json(planned: Planned) -> dict[str, Any]:
    program, estimate = planned.program, planned.estimate
    found = by_kind(program.collectives or ())
    return {
        "arguments": program.arguments,
        "temporaries": program.temporaries,
        "peak": program.peak,
        "flops": program.flops,
        "collectives": {kind: {"times": n, "sent": sent} for kind, (n, sent) in found.items()},
        "estimate": estimate and vars(estimate) | {"seconds": estimate.seconds},
        planned.work[0]: planned.work[1],
        "per_second": planned.rate,
        "verdict": planned.verdict,
        "compile_seconds": program.compile_seconds,
    }
