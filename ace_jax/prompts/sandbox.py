"""Templates that others wrote, rendered where they can do no harm.

Jinja's sandbox keeps a template from the program's objects, but not from looping for ever or from
filling the memory. So a template that comes in a file, or with a model, is rendered in a process of
its own, which has a limit on its memory, may write no file, and is ended where it takes too long.
The two send each other JSON.
"""

import contextlib
import json
import resource
import subprocess
import sys
import weakref
from collections.abc import Callable, Mapping
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY = 1 << 30  # bytes of address space
LONGEST = 1 << 20  # characters of a prompt
START, SECONDS = 120.0, 10.0  # to import what it takes; to render one prompt

Render = Callable[[dict[str, Any]], str]


class TemplateError(Exception):
    """Why a template gives no text; `line` is where, if that is known."""

    def __init__(self, message: str, line: int | None = None):
        super().__init__(" ".join(message.split())[:300])
        self.line = line


class Sandbox:
    """A template in its process. It ends with the object.

    Args:
      form: `prompt`, or `chat` for a template as Hugging Face tokenizers have them.
      source: the template.

    Raises:
      TemplateError: the template does not compile.
    """

    def __init__(self, form: str, source: str):
        self._pipe, theirs = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(theirs.fileno()), form],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        weakref.finalize(self, _end, self._process, self._pipe)
        self._ask({}, START)  # until it is ready
        self._ask(source, SECONDS)

    def render(self, variables: Mapping[str, Any]) -> str:
        """Returns the text; raises `TemplateError` where the template fails or takes too much."""
        return self._ask(variables, SECONDS)

    def _ask(self, request: Any, seconds: float) -> str:
        try:
            self._pipe.send_bytes(json.dumps(request).encode())
            if not self._pipe.poll(seconds):
                self._process.kill()
                raise TemplateError(f"takes longer than {seconds:g} s")
            reply = json.loads(self._pipe.recv_bytes(8 * LONGEST))
        except (OSError, EOFError):
            raise TemplateError(f"fails within its {MEMORY >> 30} GiB of memory") from None
        if "error" in reply:
            raise TemplateError(reply["error"], reply["line"])
        return str(reply["text"])


def prompt_renderer(source: str) -> Render:
    """Compiles a prompt's template in this process; raises Jinja's errors."""
    environment = ImmutableSandboxedEnvironment(keep_trailing_newline=True)
    return environment.from_string(source).render


def _chat_renderer(source: str) -> Render:
    from transformers.utils.chat_template_utils import render_jinja_template

    def render(variables: dict[str, Any]) -> str:
        turns = variables.pop("messages")
        rendered: Any = render_jinja_template(
            conversations=[turns], chat_template=source, add_generation_prompt=True, **variables
        )
        return str(rendered[0][0])  # of texts, and of where the model spoke in them

    return render


def _end(process: "subprocess.Popen[bytes]", pipe: Connection) -> None:
    pipe.close()
    process.kill()
    process.wait()


def _serve(pipe: Connection, form: str) -> None:
    """Answers requests until the other side is gone: ready, the template, its variables."""
    make = prompt_renderer
    if form == "chat":
        make = _chat_renderer
        make("")({"messages": []})  # imports before memory is short
    pipe.recv_bytes()
    pipe.send_bytes(b'{"text": ""}')
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    render: Render | None = None
    while True:
        request = json.loads(pipe.recv_bytes())
        try:
            if render is None:
                render, text = make(request), ""
            else:
                text = render(request)
            if len(text) > LONGEST:
                raise ValueError(f"the text has {len(text)} characters")
            reply: dict[str, Any] = {"text": text}
        except Exception as error:  # somebody's program: what it can raise has no bound
            line = getattr(error, "lineno", None)
            name = "" if isinstance(error, jinja2.TemplateSyntaxError) else type(error).__name__
            message = getattr(error, "message", None) or str(error)
            reply = {"error": f"{name}: {message}".removeprefix(": ")[:LONGEST], "line": line}
        pipe.send_bytes(json.dumps(reply).encode())


if __name__ == "__main__":
    with contextlib.suppress(EOFError, ConnectionError):
        _serve(Connection(int(sys.argv[1])), sys.argv[2])
