"""Says what training would take on devices that this machine does not have.

    python -m ace_jax.plan --config configs/ace.py --topology v5e:4x4

Compiles the step of `train` from shapes alone. A TPU slice needs `ace_jax[tpu]` but no TPU, and
`h100:2` needs `ace_jax[plan-gpu]` but no GPU; without it, this machine's CPU stands in, and memory
comes out far too large. Prints memory, operations, bytes sent and the time.
"""

from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict

from ace_jax import command
from ace_jax.errors import InputError
from ace_jax.files import whole_file, write_json
from ace_jax.planning.devices import Topology
from ace_jax.planning.program import plan, text
from ace_jax.runtime.progress import log


def main(config: ConfigDict, topology_name: str, output: Path | None) -> None:
    """Prints the plan and writes it to `output`; see the module's docstring."""
    jax.config.update("jax_platforms", "cpu")
    if output and output.exists():
        raise InputError(f"{output} exists; choose another file")
    result = plan(config, Topology.of(topology_name))
    print(text(result))
    if output:
        with whole_file(output) as file:
            write_json(file, result)
        log(f"plan: {output}")


def cli() -> None:
    """Runs the command line."""
    topology = flags.DEFINE_string(
        "topology", None, "v5e:4x4 (also v5p, v6e), or h100:2 (a100, h200)", required=True
    )
    output = flags.DEFINE_string("json", None, "file that also gets the plan, as JSON")

    def run(config: ConfigDict) -> None:
        file = Path(output.value) if output.value else None
        main(config, str(topology.value), file)

    command.run_with_config(run, topology, output)


if __name__ == "__main__":
    cli()
