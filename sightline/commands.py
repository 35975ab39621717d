"""The `sightline` commands about one video: ask, watch, push. Each takes a connected client and its
options."""

import argparse
import asyncio
import contextlib
import dataclasses
import sys
from collections.abc import AsyncIterable, AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

from sightline import aio
from sightline.access import DEFAULT_ADDRESS
from sightline.camera import Camera
from sightline.errors import (
    InvalidArgumentError,
    NotFoundError,
    SightlineError,
    UnauthenticatedError,
    UnavailableError,
)
from sightline.printing import clock, print_json
from sightline.types import AnswerResult, Event, Recollection, SessionState
from sightline.video import VideoFile

__all__ = ["LOOK_S", "ask", "push", "watch"]

DOUBT_S = 1.0  # between two looks at whether the model knows what it sees
UNSURE = "cannot tell: the picture is unlike those that the model was trained on; docs/models.md"
LOOK_S = 4.0  # how long a URL is watched before it is asked about, without --at


# --- ask ------------------------------------------------------------------------------------


async def ask(client: aio.Client, options: argparse.Namespace) -> int:
    source = options.source
    if Path(source).is_file():  # noqa: ASYNC240 - one look, and nothing else runs yet
        if options.at is not None:
            await asyncio.to_thread(_tell_end, Path(source), options.at)
        async with await _open_file(client, options) as session:
            progress = _Progress(session, options.json)
            await progress.follow(session.wait())
            return await _tell_answer(session, options)
    if "://" in source:
        opened = client.open(
            source,
            fps=options.fps,
            model=options.model,
            listen=options.listen or None,
            delegate=options.delegate,
            delegate_to=options.delegate_to,
        )
        async with await opened as session:
            if not await session.wait_for_picture():
                raise UnavailableError(f"no picture came from {source}")
            await _look(session, LOOK_S if options.at is None else options.at)
            return await _tell_answer(session, options)
    if options.at is not None:
        raise InvalidArgumentError("--at is for files and URLs; a live session is asked now")
    try:
        session = await client.session(source)
    except NotFoundError as error:
        raise NotFoundError(f"{source!r} is no file here, and {error}") from error
    return await _tell_answer(session, options)


async def _open_file(client: aio.Client, options: argparse.Namespace) -> aio.Session:
    return await client.open(
        options.source,
        realtime=False,
        until_s=options.at,
        fps=options.fps,
        grace_s=10,
        model=options.model,
        delegate=options.delegate,
        delegate_to=options.delegate_to,
    )


def _tell_end(path: Path, at_s: float) -> None:
    """Say of a moment beyond the end of a video that it is asked about its end."""
    video = VideoFile(path)
    video.close()
    if video.end_s is not None and video.end_s < at_s:
        end = f"{path.name} ends after {video.end_s:.1f} s, and is asked about there"
        print(f"sightline: {end}", file=sys.stderr)


async def _look(session: aio.Session, seconds: float) -> None:
    """Let a live source run until the model has seen so much of it, or it has ended."""
    first_ns = session.stats.last_capture_ns
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds + 10
    while session.stats.last_capture_ns - first_ns < seconds * 1e9:
        if session.state is SessionState.ENDED or loop.time() > deadline:
            return
        await asyncio.sleep(0.1)
        await session.refresh()


async def _tell_answer(session: aio.Session, options: argparse.Namespace) -> int:
    async with session.conversation(options.conversation or "") as conversation:
        answer = conversation.ask(options.question)
        try:
            if not options.json:
                async for delta in answer:
                    print(delta, end="", flush=True)
                print()
            result = await answer.result()
        except asyncio.CancelledError:
            if not options.json:
                print()
            raise
    if options.json:
        print_json(_answer_object(session, options.question, result))
    elif sys.stderr.isatty():
        for each in result.memory:
            print(f"\033[2m{_remembered(session, each)}\033[0m", file=sys.stderr)
        print(f"\033[2m({_about(result)})\033[0m", file=sys.stderr)
    return 0


def _remembered(session: aio.Session, each: Recollection) -> str:
    """A moment that an answer is made of, and how its picture is looked at."""
    told = f"from memory, {clock(each.start_ns, hundredths=False)}: {each.line or 'no line'}"
    heard = f' "{each.heard}"' if each.heard else ""
    name = session.info.name or session.id
    command = f"sightline memory {name} --moment {each.moment} --pictures FOLDER"
    return told + heard + (f"  ({command})" if each.picture else "")


def _about(result: AnswerResult) -> str:
    """ "saw 30 frames, newest 0.1 s old; first token 41 ms, all 120 ms" """
    frames = f"{result.frames_seen} frame{'' if result.frames_seen == 1 else 's'}"
    seen = f"saw {frames}, newest {result.newest_frame_age_ms / 1000:.1f} s old; "
    times = f"first token {result.first_token_ms:.0f} ms, all {result.total_ms:.0f} ms"
    again = "; its text began anew, for its worker was lost" if result.restarted else ""
    kept = "; not stored yet" if result.kept is False else ""
    unknown = "; the model does not know such pictures" if result.unfamiliar_picture else ""
    who = f"; answered by {result.answered_by}" if result.answered_by else ""
    return (seen if result.frames_seen else "") + times + who + again + kept + unknown


def _answer_object(session: aio.Session, question: str, result: AnswerResult) -> dict[str, Any]:
    report = {"question": question, "answer": result.text, **dataclasses.asdict(result)}
    del report["text"]
    for times in ("first_token_ms", "total_ms", "newest_frame_age_ms"):
        report[times] = round(report[times], 1)
    report["session"] = session.id
    if session.start_ns is not None:  # a file: when in the video its last frame was
        report["video_time_s"] = round((result.last_capture_ns - session.start_ns) / 1e9, 3)
    return report


class _Progress:
    """Progress of a file, on a terminal's standard error; silent elsewhere."""

    def __init__(self, session: aio.Session, quiet: bool) -> None:
        self._session = session
        self._shown = not quiet and sys.stderr.isatty()

    async def follow(self, work: Awaitable[Any]) -> Any:
        """Wait for `work` and return its result, telling how it goes."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=0.2)
                if self._shown:
                    report = self._session.played
                    text = f"\r\033[2m{report.understood} frames understood\033[0m "
                    print(text, end="", file=sys.stderr, flush=True)
            return task.result()
        finally:
            task.cancel()
            if self._shown:
                print("\r\033[K", end="", file=sys.stderr, flush=True)


# --- watch ----------------------------------------------------------------------------------


async def watch(client: aio.Client, options: argparse.Namespace) -> int:
    session = await client.session(options.session)
    watch = session.watch(
        options.condition,
        interval_s=options.interval,
        debounce_s=options.debounce,
        cooldown_s=options.cooldown,
        timeout_s=options.for_s,
        limit=options.count,
    )
    if sys.stderr.isatty():
        print(f"\033[2mwatching {session.name}; Ctrl-C ends\033[0m", file=sys.stderr)
    async with _telling_doubts(session):
        await _tell_events(watch, options)
    return 0


@contextlib.asynccontextmanager
async def _telling_doubts(session: aio.Session) -> AsyncIterator[None]:
    """Say on standard error, as long as it lasts, when the model does not know what it sees, and
    when it does again."""
    telling = asyncio.create_task(_tell_doubts(session), name="doubts")
    try:
        yield
    finally:
        telling.cancel()


async def _tell_doubts(session: aio.Session) -> None:
    unsure = False
    while True:
        await asyncio.sleep(DOUBT_S)
        with contextlib.suppress(SightlineError):  # who watches or pushes hears of it
            await session.refresh()
        if unsure != ("unfamiliar_picture" in session.stats.degraded):
            unsure = not unsure
            text = UNSURE if unsure else "it knows such pictures"
            print(f"\033[2m{text}\033[0m" if sys.stderr.isatty() else text, file=sys.stderr)


async def _tell_events(watch: AsyncIterable[Event], options: argparse.Namespace) -> None:
    async for event in watch:
        if options.json:
            print_json(dataclasses.asdict(event))
        else:
            at = clock(event.capture_ns)
            word = "yes" if event.active else "no "
            print(f"{at}  {word}  {event.condition}  ({event.score:.2f})", flush=True)


# --- push -----------------------------------------------------------------------------------


async def push(client: aio.Client, options: argparse.Namespace) -> int:
    camera = Camera.named(options.file)
    if camera is not None:
        options.realtime, options.loop = True, False
    elif not Path(options.file).is_file():  # noqa: ASYNC240 - one look, and nothing else runs yet
        raise FileNotFoundError(2, "no such file", options.file)
    # Opened first: a session for what is no video would be left behind.
    video = await asyncio.to_thread(VideoFile, camera or Path(options.file))
    try:
        session, created = await _session_to_push(client, options)
    except BaseException:
        video.close()
        raise
    if created and not options.json:
        print(f"session {session.name} ({session.id}), key {session.key}")
        server = "" if options.server == DEFAULT_ADDRESS else f"--server {options.server} "
        question = '"What is in the scene?"'
        print(f"ask it:  sightline {server}ask {session.name} {question}", flush=True)
    session.play(video, realtime=options.realtime, loop=options.loop)
    async with _telling_doubts(session):
        report = await _Progress(session, options.json).follow(session.wait())
    if options.json:
        described = {"session": session.id, "name": session.name}
        print_json(described | {"key": session.key} | dataclasses.asdict(report))
    else:
        text = f"{report.received} frames pushed, {report.understood} understood"
        print(text + (f", {report.dropped} dropped" if report.dropped else ""))
    return 0


async def _session_to_push(
    client: aio.Client, options: argparse.Namespace
) -> tuple[aio.Session, bool]:
    name = options.session
    found = [info for info in await client.sessions() if name in (info.id, info.name)]
    if len(found) > 1:
        raise InvalidArgumentError(f"several sessions are called {name!r}: give an id")
    if found and not options.key:
        raise UnauthenticatedError(f"session {name!r} exists: pushing to it needs its --key")
    if found:
        return await client.session(found[0].id, key=options.key), False
    opened = client.open(
        push=True,
        name=name,
        key=options.key or "",
        lossless=not options.realtime,
        fps=options.fps,
        model=options.model,
        delegate=options.delegate,
        delegate_to=options.delegate_to,
    )
    return await opened, True
