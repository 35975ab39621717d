"""The `sightline` commands about a server and what it keeps. Each takes a connected client and its
options, but for `models`, which needs no server."""

import argparse
import dataclasses
import json
import os
import sys
import textwrap
import wave
from pathlib import Path

from sightline import aio
from sightline.doctor import examine
from sightline.errors import InvalidArgumentError
from sightline.feedback import pairs, records
from sightline.presets import PRESETS
from sightline.printing import clock, print_json, print_table
from sightline.types import ModelCard, Moment

__all__ = [
    "doctor",
    "feedback",
    "forget",
    "history",
    "info",
    "memory",
    "models",
    "speak",
    "transcript",
    "voices",
]


async def speak(client: aio.Client, options: argparse.Namespace) -> int:
    folder = Path(options.output).parent
    if options.output != "-" and not folder.is_dir():
        raise FileNotFoundError(2, "no such folder", str(folder))
    chunks = client.speak(options.text, voice=options.voice)
    size, rate = 0, 0
    output: wave.Wave_write | None = None
    try:
        async for chunk in chunks:
            if output is None:
                target = sys.stdout.buffer
                if options.output != "-":
                    target = open(options.output, "wb")  # noqa: SIM115, ASYNC230 - closed by `wave`
                output = wave.open(target, "wb")  # noqa: SIM115 - opened when the rate is known
                output.setnchannels(1)
                output.setsampwidth(2)
                output.setframerate(chunk.sample_rate)
                rate = chunk.sample_rate
            output.writeframes(chunk.pcm)
            size += len(chunk.pcm)
    finally:
        if output is not None:
            output.close()
    if output is None:
        raise InvalidArgumentError("there is nothing to say in that text")
    if options.output != "-":
        print(f"{options.output}: {size / 2 / rate:.1f} s at {rate} Hz")
    return 0


async def voices(client: aio.Client, options: argparse.Namespace) -> int:
    found = await client.voices()
    if options.json:
        print_json({"voices": [voice._asdict() for voice in found]})
    else:
        print_table(("VOICE", "LANGUAGE", "ENGINE"), found)
    return 0


def models(options: argparse.Namespace) -> int:
    """Needs no server."""
    if options.json:
        rows = [dataclasses.asdict(preset) for preset in PRESETS]
        for row, preset in zip(rows, PRESETS, strict=True):
            row |= {"download_bytes": preset.download_bytes, "memory_bytes": preset.memory_bytes()}
        print_json({"models": rows})
        return 0
    print_table(
        ("NAME", "MODEL", "PARAMETERS", "DOWNLOAD", "MEMORY", "LICENCE"),
        [
            (
                preset.name,
                preset.model,
                f"{preset.parameters / 1e9:.2f} B",
                f"{preset.download_bytes / 1e9:.1f} GB" if preset.download_bytes else "-",
                f"{preset.memory_bytes() / 1e9:.1f} GB",
                preset.licence,
            )
            for preset in PRESETS
        ],
    )
    print(
        "\nMemory with one session in bfloat16; twice that on CPUs that compute float32 only."
        "\n`make run MODEL=small` downloads it once. WORKER_MODEL takes any other of the hub."
    )
    return 0


def doctor(options: argparse.Namespace) -> int:
    """Needs no server."""
    findings = examine(os.environ)
    faults = sum(finding.level == "fault" for finding in findings)
    if options.json:
        print_json({"faults": faults, "findings": [dataclasses.asdict(each) for each in findings]})
    else:
        for each in findings:
            print(f"{each.level:<8} {each.check}: {each.text}")
            if each.advice:
                print(f"         → {each.advice}")
    return 1 if faults else 0


async def info(client: aio.Client, options: argparse.Namespace) -> int:
    server = await client.info()
    if options.json:
        print_json(dataclasses.asdict(server))
        return 0
    speech = (
        f"speaks with {len(server.voices)} voice{'s' * (len(server.voices) != 1)}"
        if server.speech
        else "does not speak"
    )
    if server.sign_in and not any(server.limits.values()):  # nothing was told of the rest
        speech = f"asks for a {server.sign_in} ($SIGHTLINE_TOKEN)"
    print(f"sightline {server.version}, contract {server.contract_version}; {speech}")
    for model in server.models:
        if not model.ready:
            print(f"\n{model.name}: {model.loading}")
            continue
        print(f"\n{model.name}: {model.free_sessions} of {model.max_sessions} sessions free")
        for pool in model.pools:
            print(f"  pool {pool.name}: {pool.free_sessions} of {pool.max_sessions} sessions free")
        _print_card(model.card)
    if not server.models and any(server.limits.values()):
        print("\nno model answers")
    return 0


def _print_card(card: ModelCard) -> None:
    for text in (card.summary, f"Licence: {card.licence}" if card.licence else ""):
        if text:
            print(textwrap.fill(text, 88, initial_indent="  ", subsequent_indent="  "))
    for title, lines in (
        ("It can tell", card.can),
        ("It cannot tell", card.cannot),
        ("Try asking", card.questions),
        ("Try watching for", card.conditions),
    ):
        if lines:
            print(f"  {title}")
        for line in lines:
            print(textwrap.fill(line, 88, initial_indent="    - ", subsequent_indent="      "))


async def history(client: aio.Client, options: argparse.Namespace) -> int:
    rounds = await client.history(options.conversation)
    if options.json:
        print_json({"rounds": [dataclasses.asdict(each) for each in rounds]})
        return 0
    for each in rounds:
        print(f"{clock(each.asked_ns)}  > {each.question}")
        print(f"             {each.answer}{' …' if each.interrupted else ''}")
    return 0


async def memory(client: aio.Client, options: argparse.Namespace) -> int:
    session = await client.session(options.session)
    from_ns = 0
    if options.last is not None:
        from_ns = max(
            0, (await session.refresh()).stats.last_capture_ns - round(options.last * 1e9)
        )
    if options.moment is not None:
        moments = [await session.moment(options.moment)]
    else:
        moments = await session.memory(
            " ".join(options.words),
            from_ns=from_ns,
            limit=options.limit,
            pictures=options.pictures is not None,
        )
    if options.pictures is not None:
        folder = Path(options.pictures)
        folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - nothing else runs
        for moment in moments:
            for number, jpeg in enumerate(moment.pictures):
                (folder / f"{moment.id}-{number}.jpg").write_bytes(jpeg)
    if options.json:
        print_json({"moments": [_moment(each) for each in moments], "memory": session.info.memory})
        return 0
    if not moments:
        nothing = "this session has no memory" if session.info.memory == "off" else "nothing yet"
        print(f"sightline: {nothing}", file=sys.stderr)
    for moment in reversed(moments):
        line = moment.line + (f'  "{moment.heard}"' if moment.heard else "")
        times = [clock(each, hundredths=False) for each in (moment.start_ns, moment.end_ns)]
        print(f"{' - '.join(times)}  {line}")
    return 0


def _moment(moment: Moment) -> dict[str, object]:
    fields = dataclasses.asdict(moment)
    del fields["pictures"]
    return fields


async def transcript(client: aio.Client, options: argparse.Namespace) -> int:
    session = await client.session(options.session)
    said = await session.transcript()
    if options.json:
        print_json({"said": [each._asdict() for each in said]})
        return 0
    for each in said:
        print(f"{clock(each.start_ns)}  {each.text}")
    return 0


async def forget(client: aio.Client, options: argparse.Namespace) -> int:
    if not await client.forget(options.conversation):
        print("sightline: there was nothing to forget", file=sys.stderr)
    return 0


async def feedback(client: aio.Client, options: argparse.Namespace) -> int:
    rated = [each for each in await client.rated() if options.session in (None, each.session)]
    if options.video is None:
        lines = records(rated)
    elif options.began is None or options.session is None:
        raise InvalidArgumentError("pairs for a video need --session and --began")
    else:
        lines = pairs(rated, options.video, round(options.began * 1e9))
    for line in lines:
        print(json.dumps(line, ensure_ascii=False))
    return 0
