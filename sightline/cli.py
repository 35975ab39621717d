"""`sightline`: ask about videos and live sessions from a terminal.

Exit codes: 0 done; 1 an error that none of the others names; 2 wrong usage, or something the
server or this program cannot read; 3 server away, draining or too slow; 4 no such session;
5 wrong or missing key; 6 no room on the server; 130 interrupted.
"""

import argparse
import asyncio
import contextlib
import io
import math
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NoReturn

from sightline import (
    aio,
    commands,
    mcp_server,
    rule_commands,
    server_commands,
    session_commands,
    talk_command,
)
from sightline.access import default_address
from sightline.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    SightlineError,
    UnauthenticatedError,
    UnavailableError,
)
from sightline.types import Timeouts
from sightline.version import __version__

__all__ = ["main", "run"]

CONNECT_S = 3.0
INTERRUPTED = 130
_MODEL = "a model or a pool of the server, for a session that is made (see `info`)"
_EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (UnavailableError, 3),
    (DeadlineExceededError, 3),
    (NotFoundError, 4),
    (UnauthenticatedError, 5),
    (PermissionDeniedError, 5),
    (ResourceExhaustedError, 6),
    (InvalidArgumentError, 2),
    (ImportError, 2),
    (OSError, 2),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # its notices about connections are not ours
    if isinstance(sys.stdout, io.TextIOWrapper):  # what a terminal's encoding lacks is a "?" there
        sys.stdout.reconfigure(errors="replace")
    try:
        return asyncio.run(run(arguments))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED


async def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command on this event loop. Errors become a line on standard error and a code.

    Raises SystemExit for wrong usage and CancelledError when interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
        return await _interruptible(options)
    except BrokenPipeError:  # whoever read has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, ASYNC230 - for what is still to be flushed
        return 1
    except UnicodeEncodeError:  # a shell hands on what it was given, and a contract takes UTF-8
        print("sightline: what was written holds bytes that are no text in UTF-8", file=sys.stderr)
        return 2
    except (SightlineError, OSError, ImportError) as error:
        print(f"sightline: {_message(error)}", file=sys.stderr)
        return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1)


async def _interruptible(options: argparse.Namespace) -> int:
    """Ctrl-C and SIGTERM cancel the command, which then tidies up after itself."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # no signals on this platform's loop
            loop.add_signal_handler(number, task.cancel)
    timeouts = Timeouts(connect_s=options.timeout)
    if options.command in (server_commands.models, server_commands.doctor):  # without a server
        code: int = options.command(options)
        return code
    command: Callable[[aio.Client, argparse.Namespace], Awaitable[int]] = options.command
    client = aio.connect(
        options.server,
        timeouts=timeouts,
        token=options.token,
        insecure_token=options.insecure_token,
        ca=options.ca,
    )
    # An assistant begins what it needs once, perhaps before the server: tools say if it is away.
    async with contextlib.aclosing(client) if command is mcp_server.serve else client:
        return await command(client, options)


def _message(error: BaseException) -> str:
    """One line. An OSError's own words would begin with a number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        if message.endswith("expected one argument"):  # argparse takes "-x" for an option
            message += "; one that begins with a dash is written with an equals sign: --option=-x"
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> _Parser:
    parser = _Parser(
        prog="sightline",
        description="Ask about videos and live sessions.",
        epilog=(__doc__ or "").split("\n\n", 1)[1],
    )
    everywhere = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    for each in (parser, everywhere):  # before and after the command
        each.add_argument(
            "--server",
            metavar="HOST:PORT",
            help="the gateway, https://HOST:PORT for TLS ($SIGHTLINE_SERVER, else localhost:50051)",
        )
        each.add_argument(
            "--token",
            help="what it asks for ($SIGHTLINE_TOKEN, which others on this machine cannot read)",
        )
        each.add_argument(
            "--insecure-token",
            action="store_true",
            help="send the token also where it could be read on its way",
        )
        each.add_argument(
            "--ca", metavar="FILE", help="authorities to be believed, instead of the system's (TLS)"
        )
        each.add_argument(
            "--timeout",
            type=_positive,
            metavar="S",
            help=f"seconds to wait for the server ({CONNECT_S:g})",
        )
    parser.add_argument("--version", action="version", version=f"sightline {__version__}")
    parser.set_defaults(
        server=default_address(), timeout=CONNECT_S, token=None, insecure_token=False, ca=None
    )
    as_json = _Parser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="machine-readable output")
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Any, help: str, *parents: Any) -> argparse.ArgumentParser:
        command = subcommands.add_parser(
            name, help=help, description=help, parents=[everywhere, *parents]
        )
        command.set_defaults(command=run)
        return command

    def delegating(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--delegate",
            default="",
            choices=("never", "unsure", "always"),
            help="which questions another model answers (as the server is set)",
        )
        command.add_argument(
            "--delegate-to", default="", metavar="MODEL", help="that model (the server's choice)"
        )

    ask = add("ask", commands.ask, "ask about a file, a URL or a live session", as_json)
    ask.add_argument("source", help="a video file, a URL, or a session's id or name")
    ask.add_argument("question")
    ask.add_argument(
        "--at",
        type=_not_negative,
        metavar="SECONDS",
        help="the moment of the video to ask at (its end by default); for a URL, how long to "
        f"watch before asking ({commands.LOOK_S:g} s by default)",
    )
    ask.add_argument("--conversation", metavar="ID", help="continue this conversation")
    ask.add_argument("--fps", type=_positive, default=0.0, help="frames a second to be looked at")
    ask.add_argument("--model", default="", help=_MODEL)
    ask.add_argument(
        "--listen", action="store_true", help="of a URL: the answer knows what was said in it"
    )
    delegating(ask)

    watch = add(
        "watch", commands.watch, "be told when a condition begins or ceases to hold", as_json
    )
    watch.add_argument("session", help="a session's id or name")
    watch.add_argument("condition", help='for example "a phone is there"')
    for name, text in (
        ("interval", "seconds between two checks (1; 0: with every frame)"),
        ("debounce", "seconds a change must hold"),
        ("cooldown", "least seconds between two events"),
    ):
        default = None if name == "interval" else 0.0  # 0: with every frame
        watch.add_argument(f"--{name}", type=_not_negative, default=default, metavar="S", help=text)
    watch.add_argument("--count", type=_count, metavar="N", help="end after N events")

    push = add("push", commands.push, "push a video file or a camera into a session", as_json)
    push.add_argument("file", help="a file; 0 or another number for a camera; screen")
    push.add_argument("--session", required=True, metavar="NAME", help="made if there is none")
    push.add_argument("--key", help="the key of an existing session, or the one to give a new one")
    push.add_argument(
        "--realtime", action="store_true", help="at the video's own pace (else: all, at once)"
    )
    push.add_argument("--loop", action="store_true", help="again and again, until Ctrl-C")
    push.add_argument("--fps", type=_positive, default=0.0, help="frames a second to be looked at")
    push.add_argument("--model", default="", help=_MODEL)
    delegating(push)

    watch.add_argument(
        "--for", dest="for_s", type=_positive, metavar="S", help="end after S seconds"
    )
    types = {
        "label": _label,
        "not_negative": _not_negative,
        "segments": _segments,
        "count": _count,
    }
    session_commands.add_commands(add, as_json, delegating, types)
    talk = add(
        "talk", talk_command.talk, "talk with a session, by microphone and loudspeaker", as_json
    )
    talk.add_argument("session", help="a session's id or name")
    talk.add_argument(
        "--microphone", default="default", metavar="NAME", help="a device, or a sound file"
    )
    talk.add_argument(
        "--speaker",
        default="default",
        metavar="NAME",
        help="a device, none, or a file that is written (OUT.wav)",
    )
    talk.add_argument("--voice", default="", help="a voice of the server (see `voices`)")
    talk.add_argument("--conversation", metavar="ID", help="continue this conversation")
    transcript = add(
        "transcript", server_commands.transcript, "read what was said in a video", as_json
    )
    transcript.add_argument("session", help="a session's id or name, which listens")
    history = add(
        "history", server_commands.history, "read what was said in a conversation", as_json
    )
    history.add_argument("conversation", help="its id, as `ask --json` tells it")
    memory = add(
        "memory", server_commands.memory, "read what is remembered beyond the window", as_json
    )
    memory.add_argument("session", help="a session's id or name")
    memory.add_argument("words", nargs="*", help="only moments with these words")
    memory.add_argument("--last", type=_positive, metavar="S", help="of the last S seconds")
    memory.add_argument(
        "--limit", type=_count, default=100, metavar="N", help="at most N moments (100)"
    )
    memory.add_argument("--moment", metavar="ID", help="this one alone, of which an answer told")
    memory.add_argument("--pictures", metavar="FOLDER", help="write their pictures there")
    forget = add("forget", server_commands.forget, "remove every trace of a conversation")
    forget.add_argument("conversation", help="its id")
    feedback = add("feedback", server_commands.feedback, "what people think of answers")
    feedback.add_argument("action", choices=["export"], help="write it as lines of JSON")
    feedback.add_argument("--session", metavar="ID", help="of conversations on this session alone")
    feedback.add_argument(
        "--video",
        metavar="FILE",
        help="pairs of a better and a worse answer for training, with this recording",
    )
    feedback.add_argument(
        "--began",
        type=_not_negative,
        metavar="SECONDS",
        help="when the recording began, since the Unix epoch",
    )
    add(
        "info",
        server_commands.info,
        "what the server is, and what its models can be asked",
        as_json,
    )
    speak = add("speak", server_commands.speak, "write a text as speech")
    speak.add_argument("text")
    speak.add_argument("-o", "--output", required=True, metavar="OUT.wav", help="- for stdout")
    speak.add_argument("--voice", default="", help="a voice of the server (see `voices`)")
    add("voices", server_commands.voices, "list what the server can speak with", as_json)
    add(
        "models",
        server_commands.models,
        "list what `make run MODEL=…` may be, and what each needs",
        as_json,
    )
    add(
        "doctor",
        server_commands.doctor,
        "look for what keeps Sightline from running here, and say what to do",
        as_json,
    )
    rule_commands.add_commands(add, everywhere, as_json, _not_negative, _label, _count)
    mcp = add("mcp", mcp_server.serve, "let assistants look, ask and watch: a server of MCP")
    mcp.add_argument(
        "--http", type=_port, metavar="PORT", help="by streamable HTTP on this port, else by stdio"
    )
    mcp.add_argument("--host", default="127.0.0.1", help="where to listen with --http (127.0.0.1)")
    return parser


def _not_negative(text: str) -> float:
    value = _number(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def _positive(text: str) -> float:
    value = _number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("must be positive")
    return value


def _segments(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of segments")
    return int(text)


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


if __name__ == "__main__":
    sys.exit(main())
