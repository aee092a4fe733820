"""Whether a program fits a device, and which setting would make it fit."""

from ml_collections import ConfigDict

from ace_jax.planning.program import Program


def verdict(
    program: Program, limit: float, config: ConfigDict, mesh: dict[str, int], base: int
) -> str:
    """Says whether a program fits, and if not what to change first.

    The base is spread further where it is more than half of what is needed, otherwise the batch
    is made smaller: what else a device holds grows with its share of the rows.

    Args:
      program: the compiled step.
      limit: bytes that a device has.
      config: what was planned.
      mesh: its axes' sizes.
      base: bytes of all base weights together.
    """
    need = f"{_gb(program.peak)} of {_gb(limit)} GB"
    if program.peak <= limit:
        return f"fits: {need}"
    held = program.arguments["base"]
    fixed = sum(program.arguments.values())
    share = (limit - fixed) / program.temporaries
    if 2 * held > program.peak or share <= 0:
        return f"does not fit: {need}; {_spread_further(program.peak - held, limit, mesh, base)}"
    size, step = config.batch.size, config.batch.neighbours
    smaller = int(size * share) // step * step
    knobs = f"model.remat (now {config.model.remat})"
    if smaller < 1:
        return (
            f"does not fit: {need}; {_gb(program.temporaries)} GB are temporaries and "
            f"batch.size {size} is {size // step} group(s) of neighbours: lower batch.neighbours, "
            f"or use {knobs} or mesh.tensor"
        )
    return (
        f"does not fit: {need}; {_gb(program.temporaries)} GB are temporaries, which grow with the "
        f"batch: batch.size={smaller} optimizer.accumulation={-(-size // smaller)}, or {knobs}"
    )


def _spread_further(others: int, limit: float, mesh: dict[str, int], base: int) -> str:
    devices = mesh["data"] * mesh["fsdp"] * mesh["tensor"]
    for fsdp in range(mesh["fsdp"] + 1, devices // mesh["tensor"] + 1):
        share = base / (fsdp * mesh["tensor"])
        # What one layer gathers is in `others` already only where the base is spread.
        if devices % (fsdp * mesh["tensor"]) == 0 and others + share <= limit:
            return (
                f"spread the base: mesh.fsdp={fsdp} makes {_gb(base)} GB / "
                f"{fsdp * mesh['tensor']} = {_gb(share)} GB a device of it"
            )
    return (
        f"the base alone is {_gb(base)} GB, over {devices} devices {_gb(base / devices)} GB each: "
        "model.quantization, or more devices"
    )


def _gb(size: float | int) -> str:
    return f"{size / 1e9:.1f}"
