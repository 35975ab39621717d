"""Runs the whole suite on this machine: `python -m services`, or `make run`.

Redis, dialogue, tts, inference workers and the gateway, each a process of its own; then a video
is published to it and three questions are asked about that. Ctrl-C drains and stops everything.
Settings are environment variables, see docs/configuration.md.
"""

import argparse
import asyncio
import signal
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from services.common.config import ConfigError
from services.local.config import LocalConfig
from services.local.launcher import Launcher, Options, check_folders, checked
from services.local.show import Show
from services.local.terminal import own_foreground

FORCED = 130


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m services", description=__doc__)
    parser.add_argument("--free-ports", action="store_true", help="pick every port freely")
    parser.add_argument(
        "--exit-after-questions", action="store_true", help="stop once they are answered"
    )
    parser.add_argument(
        "--https", action="store_true", help="let phones in this network use the page, with a token"
    )
    parser.add_argument("--report", type=Path, metavar="JSON", help="write the answers there")
    parser.add_argument(
        "--cache", type=Path, default=Options().cache, help="for logs and the sample clip"
    )
    arguments = parser.parse_args()
    options = Options(
        cache=arguments.cache.absolute(),
        report=arguments.report,
        exit_after_questions=arguments.exit_after_questions,
    )
    try:
        config = LocalConfig.from_env()
        if arguments.https:
            config = replace(config, https=True)
        if arguments.free_ports:
            config = config.on_free_ports()
        check_folders(options.cache)
        launcher = Launcher(checked(config), options, Show(Console(highlight=False)))
        with own_foreground():
            return asyncio.run(_run(launcher))
    except ConfigError as error:
        print(f"sightline: {error}", file=sys.stderr)
        return 2


async def _run(launcher: Launcher) -> int:
    """The first signal stops in order, the second kills."""
    work = asyncio.create_task(launcher.run(), name="launcher")
    killing: list[asyncio.Task[None]] = []

    def interrupt() -> None:
        if work.cancelling() == 0:
            work.cancel()
        elif not killing:
            killing.append(asyncio.create_task(launcher.kill(), name="kill"))

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    code = await work
    return FORCED if killing else code


if __name__ == "__main__":
    sys.exit(main())
