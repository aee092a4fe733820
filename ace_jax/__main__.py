"""The console script: `ace-jax NAME ...` runs `python -m ace_jax.NAME ...`."""

import runpy
import sys

from ace_jax import __version__

COMMANDS = {
    "prepare": "a survey's files to cells by persona",
    "train": "a LoRA adapter that answers as the survey does",
    "evaluate": "answers of a model or adapter, scored against the survey",
    "ask": "answers to new questions, by persona",
    "report": "evaluations side by side, as tables, figures and a page",
    "convert": "adapters and checkpoints from one form to another",
    "plan": "what training would take on devices that you do not have",
}
USAGE = "usage: ace-jax COMMAND ... (ace-jax COMMAND --help says more)\n\n" + "\n".join(
    f"  {name:<10}{what}" for name, what in COMMANDS.items()
)


def main() -> None:
    """Runs one command."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name == "--version":
        print(f"ace-jax {__version__}")
    elif name in ("--help", "-h", "help"):
        print(USAGE)
    elif name in COMMANDS:
        del sys.argv[1]
        runpy.run_module(f"ace_jax.{name}", run_name="__main__", alter_sys=True)
    else:
        sys.exit(f"error: {name!r} is no command of ace-jax; there are {', '.join(COMMANDS)}")


if __name__ == "__main__":
    main()
