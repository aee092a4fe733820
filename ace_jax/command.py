"""What every command does alike: how it parses, logs and fails."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from ace_jax.errors import InputError, Stopped
from ace_jax.files import reason
from ace_jax.recipe import find_config
from ace_jax.runtime.progress import log, show_messages

SAVED_AND_STOPPED = 42  # the status on which launchers start a job again
READER_ENDED = 141  # what a shell shows for a program that SIGPIPE ended


def run(main: Callable[[], None]) -> None:
    """Runs a command: an `InputError` is one line on standard error and status 1."""
    show_messages()
    try:
        try:
            main()
        finally:
            sys.stdout.flush()
    except InputError as error:
        _fail(str(error))
    except BrokenPipeError:  # whoever read the output has ended, as in `ace-jax report ... | head`
        _close_output()
        sys.exit(READER_ENDED)
    except OSError as error:
        _close_output()
        where = error.filename or "standard output"
        _fail(f"{where}: cannot be read or written ({error.strerror or reason(error)})")
    except Stopped as stopped:
        log(str(stopped))
        sys.exit(SAVED_AND_STOPPED)
    except KeyboardInterrupt:
        _fail("interrupted")


def run_with_config(
    main: Callable[[ConfigDict], None], *others: flags.FlagHolder, default: str | None = None
) -> None:
    """Runs a command that takes `--config FILE[:VARIANT]` and `--config.FIELD=VALUE`.

    The config is locked: an unknown field is refused by name. A FILE that is not there is looked
    up among the configs that come with the package (`ace`, `ace.py` or `configs/ace.py`).

    Args:
      main: gets the config.
      others: further flags, shown by --help.
      default: the config if none is given; None makes --config required.
    """
    # jax warns each time it looks for a TPU and finds none.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
    config = config_flags.DEFINE_config_file("config", None, "the experiment, a Python file")
    if default is None:
        flags.mark_flag_as_required("config")
    for name in ("config", *(flag.name for flag in others)):  # --help shows the main program's own
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    try:
        argv = _with_config(sys.argv, default)
    except InputError as error:
        _fail(str(error))
    app.run(
        lambda _: run(lambda: main(config.value)),
        argv=argv,
        flags_parser=lambda argv: _parse(argv, config),
    )


def workdir_flag() -> flags.FlagHolder:
    """Defines `--workdir`."""
    return flags.DEFINE_string(
        "workdir", None, "where the output goes; made if needed", required=True
    )


def directory(flag: flags.FlagHolder) -> Path:
    """Returns the directory that a flag names; raises `InputError` for a file."""
    path = Path(str(flag.value))
    if path.exists() and not path.is_dir():
        raise InputError(f"--{flag.name} {path} is a file; name a directory")
    return path


def _with_config(argv: Sequence[str], default: str | None) -> list[str]:
    """Returns the arguments with the path of the config file in full."""
    resolved = list(argv)
    for place, argument in enumerate(argv):
        name = argument.removeprefix("-").removeprefix("-")
        if name.startswith("config="):
            resolved[place] = f"--config={find_config(name.removeprefix('config='))}"
        elif name == "config" and argument.startswith("-") and place + 1 < len(argv):
            resolved[place + 1] = find_config(argv[place + 1])
    given = any(argument.split("=")[0] in ("-config", "--config") for argument in resolved)
    if default is not None and not given:
        resolved.insert(1, f"--config={find_config(default)}")
    return resolved


def _parse(argv: list[str], config: flags.FlagHolder) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
        config.value.keys()  # a config file that failed to load is only reported here
    except (AttributeError, KeyError) as error:
        name = str(error).replace("\\n", ". ").translate(str.maketrans("", "", "'\"\\"))
        _fail(f"--config has no such field: {name}")
    except (flags.Error, OSError, TypeError, ValueError) as error:
        # For an error in a config file this is the traceback's last line: class and message.
        message = str(error).strip().splitlines()[-1].removeprefix("ValueError: ")
        _fail(f"{message} (see --help)")
    if len(rest) > 1:
        _fail(f"unexpected argument {rest[1]!r} (see --help)")
    return rest


def _close_output() -> None:
    """Sends what is left to print nowhere: Python would try once more, and show a traceback."""
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115


def _fail(message: str) -> NoReturn:
    # A file's name may hold control characters.
    line = " ".join(message.split())
    sys.exit("error: " + "".join(char if char.isprintable() else "?" for char in line))
