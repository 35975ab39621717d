"""The `sightline` commands about sessions: sessions, open, update, decide, picture, delete."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from sightline import aio
from sightline.printing import print_json, print_table
from sightline.types import Decision, SessionInfo

__all__ = ["add_commands"]


async def sessions(client: aio.Client, options: argparse.Namespace) -> int:
    found = await client.sessions(labels=dict(options.label or ()))
    if options.json:
        print_json({"sessions": [dataclasses.asdict(info) for info in found]})
    elif not found:
        print("no sessions")
    else:
        print_table(_HEADINGS, [_row(info) for info in found])
    return 0


_HEADINGS: tuple[str, ...] = (
    "ID",
    "NAME",
    "STATE",
    "SOURCE",
    "FPS IN/SEEN",
    "FRAMES",
    "DROPPED",
    "P95 MS",
    "MODEL",
)


def _row(info: SessionInfo) -> tuple[str, ...]:
    stats = info.stats
    return (
        info.id,
        info.name,
        "moving" if info.moving else info.state,
        info.source_kind or "-",
        f"{stats.fps_in:.1f}/{stats.fps_processed:.1f}",
        str(stats.frames_processed),
        str(sum(stats.dropped.values())),
        f"{stats.frame_latency_p95_ms:.0f}",
        info.model,
    )


async def open_session(client: aio.Client, options: argparse.Namespace) -> int:
    session = await client.open(
        options.source,
        on_server=options.source is not None,
        key=options.key or "",
        name=options.name or "",
        loop=options.loop,
        fps=options.fps or 0.0,
        window=options.window or 0,
        grace_s=options.grace,
        labels=dict(options.label or ()),
        model=options.model,
        memory=options.memory,
        listen=options.listen,
        delegate=options.delegate,
        delegate_to=options.delegate_to,
    )
    addresses = {
        name: address
        for name in ("rtmp_url", "whip_url", "srt_url")
        if (address := getattr(session, name))
    }
    if options.json:
        print_json({**dataclasses.asdict(session.info), "key": session.key, **addresses})
        return 0
    print(f"{session.name} ({session.id}) is {session.state}")
    if options.source is None:
        print(f"publish with the key {session.key}, to any of")
        for address in addresses.values():
            print(f"  {address}")
    return 0


async def decide(client: aio.Client, options: argparse.Namespace) -> int:
    session = await client.session(options.session)
    decisions = await session.decide(
        *options.statements, choices=options.choice or (), levels=options.level or ()
    )
    if options.json:
        print_json({"decisions": [dataclasses.asdict(each) for each in decisions]})
        return 0
    print_table(
        ("STATEMENT", "ANSWER", "PROBABILITY"),
        [(each.statement, _answer(each), f"{each.probability:.0%}") for each in decisions],
    )
    if any(each.unfamiliar_picture for each in decisions):
        print("sightline: the model does not know such pictures", file=sys.stderr)
    return 0


def _answer(decision: Decision) -> str:
    return decision.value or ("yes" if decision.probability >= 0.5 else "no")


async def picture(client: aio.Client, options: argparse.Namespace) -> int:
    session = await client.session(options.session)
    jpeg = await session.picture(width=options.width)
    if options.output == "-":
        sys.stdout.buffer.write(jpeg)
    else:
        Path(options.output).write_bytes(jpeg)  # noqa: ASYNC240 - nothing else runs
    return 0


async def update(client: aio.Client, options: argparse.Namespace) -> int:
    session = await client.session(options.session)
    labels = None if options.label is None else dict(options.label)
    changed = await session.update(
        name=options.name,
        fps=options.fps,
        window=options.window,
        grace_s=options.grace,
        labels=labels,
        listen=options.listen,
        delegate=options.delegate,
        delegate_to=options.delegate_to or None,
    )
    if options.json:
        print_json(dataclasses.asdict(changed))
    else:
        print(f"{changed.name}: {changed.fps:g} frames a second, window of {changed.window}")
    return 0


async def delete(client: aio.Client, options: argparse.Namespace) -> int:
    session = await client.session(options.session)
    await session.delete(conversations=options.conversations, events=options.events)
    return 0


def add_commands(add: Any, as_json: Any, delegating: Any, types: dict[str, Any]) -> None:
    """The commands on a parser. add: makes one of a name, what it runs and what it is for;
    delegating: adds the options of delegates; types: of arguments, by name."""
    listed = add("sessions", sessions, "list what is being watched", as_json)
    listed.add_argument(
        "--label", action="append", type=types["label"], metavar="KEY=VALUE", help="only with it"
    )
    opened = add("open", open_session, "watch a camera or a file of the server's, to stay", as_json)
    opened.add_argument(
        "source",
        nargs="?",
        help="a URL, or a path below the server's media root; none: waits for who publishes",
    )
    changed = add("update", update, "change a session while it runs", as_json)
    changed.add_argument("session", help="a session's id or name")
    for each in (opened, changed):
        each.add_argument("--name", help="its name" if each is opened else "its new name")
        each.add_argument(
            "--fps",
            type=types["not_negative"],
            help="frames a second to be looked at (0: as the model likes)",
        )
        each.add_argument(
            "--window",
            type=types["segments"],
            help="segments to be remembered (0: as the model likes)",
        )
        each.add_argument(
            "--grace",
            type=types["not_negative"],
            metavar="S",
            help="seconds it outlives its publisher",
        )
        each.add_argument(
            "--label",
            action="append",
            type=types["label"],
            metavar="KEY=VALUE",
            help="one of its labels"
            + ("" if each is opened else ", which take the place of those it had"),
        )
        each.add_argument(
            "--listen",
            action=argparse.BooleanOptionalAction,
            help="hear what is said in the video, or not"
            + ("" if each is opened else ", and forget what was"),
        )
        delegating(each)
    opened.add_argument("--loop", action="store_true", help="a file: again and again")
    opened.add_argument("--key", help="that publishers need (the server makes one)")
    opened.add_argument("--model", default="", help="a model or a pool of the server (see `info`)")
    opened.add_argument(
        "--memory",
        default="",
        choices=("off", "lines", "pictures"),
        help="what is kept of what leaves the window (as the server is set)",
    )
    decided = add("decide", decide, "how likely statements hold now", as_json)
    decided.add_argument("session", help="a session's id or name")
    decided.add_argument(
        "statements", nargs="+", metavar="STATEMENT", help='"a phone is there", "the cup is {}"'
    )
    among = decided.add_mutually_exclusive_group()
    for name, text in (
        ("choice", "one of what may stand for {}"),
        ("level", "likewise, from the least to the most"),
    ):
        among.add_argument(f"--{name}", action="append", metavar="WORD", help=text)
    looked = add("picture", picture, "write the newest picture as JPEG")
    looked.add_argument("session", help="a session's id or name")
    looked.add_argument("-o", "--output", required=True, metavar="OUT.jpg", help="- for stdout")
    looked.add_argument(
        "--width", type=types["count"], default=0, metavar="N", help="pixels at most (640)"
    )
    ending = add("delete", delete, "end a session")
    ending.add_argument("session", help="a session's id or name")
    ending.add_argument(
        "--conversations", action="store_true", help="remove those that began on it as well"
    )
    ending.add_argument(
        "--events", action="store_true", help="remove the events of its rules as well"
    )
