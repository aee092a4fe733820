"""Commands in forks of a process that has imported them: the imports are most of a short run.

What runs is what `python -m ace_jax.COMMAND` runs, in a process of its own: with its own devices,
signals, standard error and exit status.
"""

import atexit
import importlib
import os
import runpy
import sys
from multiprocessing import get_context
from subprocess import TimeoutExpired
from threading import Thread

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["preloaded"])


class Forked:
    """A command under way, with what these tests use of `subprocess.Popen`.

    Args:
      line: sys.executable, "-m", the module and its arguments.
      devices: how many the process has.
      cwd: where it runs.
      first: source text, run in the process before the command.
    """

    def __init__(self, line, devices, cwd, first=""):
        _, _, module, *arguments = map(str, line)
        reader, writer = CONTEXT.Pipe(duplex=False)
        target = (module, arguments, devices, str(cwd), writer, first)
        self._process = CONTEXT.Process(target=_run, args=target, daemon=True)
        self._process.start()
        writer.close()
        self.stderr = open(os.dup(reader.fileno()), encoding="utf-8")  # noqa: SIM115
        reader.close()

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self.returncode

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self.returncode is None:
            raise TimeoutExpired(self._process.name, timeout)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self._process.pid, number)

    def kill(self):
        self._process.kill()

    def communicate(self, timeout):
        said = []
        reading = Thread(target=lambda: said.append(self.stderr.read()), daemon=True)
        reading.start()
        reading.join(timeout)
        self.wait(timeout)
        return None, said[0]


def _run(module, arguments, devices, cwd, stderr, first):
    os.dup2(stderr.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # gloo tells there who has joined
    stderr.close()
    os.chdir(cwd)
    sys.argv = [module, *arguments]

    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    try:
        exec(first, {})
        found = importlib.import_module(module)
        if hasattr(found, "cli"):
            found.cli()
        else:  # a package with a __main__
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        sys.stderr.flush()
        atexit._run_exitfuncs()  # which a child of multiprocessing leaves out; jax has some
