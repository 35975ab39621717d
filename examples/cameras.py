"""Decisions over several cameras at once: the same statements about every session, as a table.

    python examples/cameras.py "a person is there" "the shelf is empty" --label floor=2
    python examples/cameras.py "a {} shirt is held up" --choices red,blue,white

Each camera is asked once for all statements, which are scored together on its video's memory.
"""

import argparse
import asyncio

import sightline
import sightline.aio


async def decide(
    session: sightline.aio.Session, statements: list[str], choices: list[str]
) -> list[str]:
    """One cell for each statement."""
    try:
        decisions = await session.decide(*statements, choices=choices)
    except sightline.SightlineError as error:  # one camera's trouble is not the others'
        return [error.reason or "?"] * len(statements)
    return [f"{each.value} {each.probability:.2f}".strip() for each in decisions]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("statements", nargs="+")
    parser.add_argument("--choices", default="", help="what may stand in the place of {}, a,b,c")
    parser.add_argument("--label", action="append", default=[], help="of sessions, name=value")
    parser.add_argument("--server", help="$SIGHTLINE_SERVER, else localhost:50051")
    parser.add_argument("--every", type=float, help="seconds between two tables; once without it")
    options = parser.parse_args()
    labels = dict(label.split("=", 1) for label in options.label)
    choices = [choice for choice in options.choices.split(",") if choice]

    async with sightline.aio.connect(options.server) as client:
        while True:
            infos = await client.sessions(labels=labels)
            sessions = [await client.session(info.id) for info in infos]
            looks = [decide(session, options.statements, choices) for session in sessions]
            rows = [["camera", *options.statements]]
            for info, cells in zip(infos, await asyncio.gather(*looks), strict=True):
                rows.append([info.name, *cells])
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            for row in rows:
                print("  ".join(map(str.ljust, row, widths)))
            if not options.every:
                return
            await asyncio.sleep(options.every)


if __name__ == "__main__":
    asyncio.run(main())
