"""The program that renders one chat template, in a process of its own that can do next to nothing.

It is run as a file (`python -I chat_sandbox.py`), imports jinja2 alone, and speaks JSON: a request on stdin, an answer
on stdout. A template comes out of a downloaded file, so it is a stranger's program: jinja2's sandbox keeps it from
Python's internals, and limits of the operating system hold what the sandbox does not (`{{ 'a' * 10**9 }}`).

Conventions of transformers' `render_jinja_template` (utils/chat_template_utils.py): blocks trimmed, `raise_exception`,
`tojson` without HTML escapes, `{% break %}`, `{% continue %}`, `{% generation %}`, special tokens by name.
`strftime_now` exists only where the request fixes a date, so that the same messages always give the same text.

request:  path (of imports), template, variables, date (ISO, or null), limits {cpu_s, memory_bytes, output_characters}
answer:   {"text": …} or {"error": "unsafe" | "refused" | "failed", "why": …, "line": number or null}
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATE_FILE = "<template>"  # jinja2's name for a template that came as text
# Compiled and rendered before the limits hold, so that nothing has to be imported after.
_WARM_UP = "{% for x in [1] if x is defined %}{{ '\\u00e9' | upper | tojson }}{% endfor %}{{ oops.oops }}"


def main() -> None:
    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    environment = _environment(request["date"])
    _render(environment, _WARM_UP, {}, 100)
    _limit(**request["limits"])
    answer = _render(environment, request["template"], request["variables"], request["limits"]["output_characters"])
    json.dump(answer, sys.stdout)
    sys.stdout.flush()


def _environment(date: str | None) -> Environment:
    import pprint  # noqa: F401  filters of jinja2 import these when they are used, which the limits would forbid
    import textwrap  # noqa: F401

    import jinja2.debug
    import jinja2.ext
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Refusal(TemplateError):
        """What a template says of messages that it was not made for, such as two users in a row."""

    class Sandbox(ImmutableSandboxedEnvironment):
        def unsafe_undefined(self, obj: object, attribute: str) -> Any:
            """Every look at an internal attribute is an error, even one whose result would only be printed."""
            raise SecurityError(f"access to attribute {attribute!r} of a {type(obj).__name__}")

    class Generation(jinja2.ext.Extension):
        """`{% generation %}` marks what the model said, for training; it renders as what is inside."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def raise_exception(message: object) -> None:
        raise Refusal(str(message))

    def tojson(
        value: object, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None,
        sort_keys: bool = False,
    ) -> str:  # fmt: skip
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.extend(refusal=Refusal)
    if date is not None:
        environment.globals["strftime_now"] = _clock(date)
    return environment


def _clock(date: str) -> Callable[[str], str]:
    day = datetime.datetime.combine(datetime.date.fromisoformat(date), datetime.time())
    return lambda format: day.strftime(format)


def _limit(cpu_s: float, memory_bytes: int, output_characters: int) -> None:
    """From here on: so much time and memory, and no file, socket or process any more."""
    try:
        import resource
        import signal
    except ImportError:  # Windows has neither; there the parent's clock is what stops a template
        return
    signal.setitimer(signal.ITIMER_PROF, cpu_s)  # SIGPROF ends the process, even inside one long operation
    with contextlib.suppress(OSError, ValueError):  # macOS has no /proc and does not enforce this limit
        with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123
            size = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (size + memory_bytes, size + memory_bytes))
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(limit, (0, 0))


def _render(
    environment: Environment, template: str, variables: dict[str, object], output_characters: int
) -> dict[str, object]:
    from jinja2.exceptions import SecurityError, TemplateSyntaxError

    parts: list[str] = []
    length = 0
    try:
        for part in environment.from_string(template).generate(variables):
            length += len(part)
            if length > output_characters:
                return _failed(f"more than {output_characters} characters of output", None)
            parts.append(part)
    except SecurityError as error:
        return {"error": "unsafe", "why": str(error), "line": _line(error)}
    except environment.refusal as error:  # type: ignore[attr-defined]
        return {"error": "refused", "why": str(error), "line": _line(error)}
    except TemplateSyntaxError as error:
        return _failed(error.message or "a syntax error", error.lineno)
    except MemoryError:
        parts.clear()
        return _failed("more memory than a template may use", None)
    except RecursionError as error:
        return _failed("blocks or calls nested too deep", _line(error))
    except Exception as error:
        return _failed(f"{type(error).__name__}: {error}"[:500], _line(error))
    return {"text": "".join(parts)}


def _failed(why: str, line: int | None) -> dict[str, object]:
    return {"error": "failed", "why": why, "line": line}


def _line(error: BaseException) -> int | None:
    """The template's line that raised, as jinja2 writes it into the traceback."""
    frame, line = error.__traceback__, None
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == _TEMPLATE_FILE:
            line = frame.tb_lineno
        frame = frame.tb_next
    return line


if __name__ == "__main__":
    main()
