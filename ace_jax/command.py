"""What every command does the same way: one line and a status for whatever the user can mend."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from ace_jax.errors import InputError


def run(main: Callable[[], None]) -> None:
    """Runs a command; an `InputError` becomes one line on standard error and status 1."""
    try:
        main()
    except InputError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted")


def run_with_config(main: Callable[[ConfigDict, Path], None]) -> None:
    """Runs a command that takes `--config FILE` (with `--config.FIELD=VALUE`) and `--workdir`."""
    workdir = flags.DEFINE_string(
        "workdir", None, "where the output goes; made if needed", required=True
    )
    run_on_config(lambda config: main(config, _directory(Path(str(workdir.value)))), workdir)


def run_on_config(main: Callable[[ConfigDict], None], *others: flags.FlagHolder) -> None:
    """Runs a command that takes `--config FILE`, `--config.FIELD=VALUE` and other flags.

    The config is locked: a field that it does not have is refused by name.
    """
    # Where there is no TPU, jax says so each time it looks for one.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
    config = config_flags.DEFINE_config_file("config", None, "the experiment, a Python file")
    flags.mark_flag_as_required("config")
    for name in ("config", *(flag.name for flag in others)):  # --help shows the main program's own
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    app.run(
        lambda _: run(lambda: main(config.value)), flags_parser=lambda argv: _parse(argv, config)
    )


def say(message: str) -> None:
    """Tells the user on standard error what is going on."""
    print(message, file=sys.stderr, flush=True)


def _directory(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise InputError(f"--workdir {path} is a file; name a directory")
    return path


def _parse(argv: list[str], config: flags.FlagHolder) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
        config.value.keys()  # a config file that failed to load is only reported here
    except (AttributeError, KeyError) as error:
        name = str(error).replace("\\n", ". ").translate(str.maketrans("", "", "'\"\\"))
        _fail(f"--config has no such field: {name}")
    except (flags.Error, OSError, TypeError, ValueError) as error:
        # Of an error in a config file, this is a traceback's last line: class and message.
        message = str(error).strip().splitlines()[-1].removeprefix("ValueError: ")
        _fail(f"{message} (see --help)")
    return rest


def _fail(message: str) -> NoReturn:
    # A file's name may hold what a terminal obeys.
    line = " ".join(message.split())
    sys.exit("error: " + "".join(char if char.isprintable() else "?" for char in line))
