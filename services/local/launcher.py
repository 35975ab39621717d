"""The whole evening: start, show a video, ask about it, stay up, and leave nothing behind."""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from services.common.config import ConfigError
from services.common.redaction import redacted
from services.local import tour
from services.local.clip import STORY, Clip, publisher_command, sample_clip, story_of
from services.local.config import LocalConfig
from services.local.https import Https, make_https
from services.local.model_servers import relay_line
from services.local.process import ROOT, Process, ProcessError
from services.local.show import Show
from services.local.suite import Suite
from sightline import aio
from sightline.errors import SightlineError, UnavailableError
from sightline.types import Timeouts

T = TypeVar("T")

DEMO, CAMERA = "demo", "camera"
REDIS = "sightline-redis-"
PICTURE_S = 30.0
LOOK_S = 8.0  # how long a video is watched before it is asked about, where its window is longer
AGAIN_S = 5.0  # between two tries to bring a session back
LEAST_FREE_BYTES = 64 * 2**20  # for logs, the sample clip and an evening's conversations
LONG_S = 24 * 3600.0  # how long the two sessions wait for their publishers
REMEMBERS = (
    "Sessions remember what they showed until you stop: ask what happened ten minutes ago. "
    "GATEWAY_MEMORY=off: none does."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`report`: where the answers are written as JSON. `cache`: logs and the sample clip."""

    cache: Path = ROOT / ".cache"
    report: Path | None = None
    exit_after_questions: bool = False


class Launcher:
    """`config` with real ports. `run` once."""

    def __init__(self, config: LocalConfig, options: Options, show: Show) -> None:
        self._config = config
        self._story = story_of(config.worker_model)
        self._options = options
        self._show = show
        self._folder = options.cache / "run"
        self._keys = {name: secrets.token_hex(8) for name in (DEMO, CAMERA)}
        self._suite: Suite | None = None
        self._again_s = 0.0
        self._https: Https | None = None

    async def run(self) -> int:
        """Run until cancelled, or until the questions are answered. Returns the exit code."""
        self._folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers()
        with tempfile.TemporaryDirectory(prefix=f"{REDIS}{os.getpid()}-") as redis:
            media = self._media_folder()
            if self._config.https:
                folder = self._options.cache / "https"
                self._https = await asyncio.to_thread(make_https, folder)
            self._suite = Suite(
                self._config,
                self._folder,
                Path(redis),
                self._show.process,
                self._show.progress,
                media,
                self._https,
                remembers=self._remembers,
            )
            code = 0
            try:
                code = await self._evening(self._suite)
            except asyncio.CancelledError:
                self._show.close()
                self._show.line("stopping")
            finally:
                self._show.close()
                complaints = await _to_the_end(self._suite.stop())
            for complaint in complaints:
                self._show.complaint(complaint)
            return code or (1 if complaints else 0)

    async def kill(self) -> None:
        """Kill every process at once, without draining."""
        if self._suite is not None:
            await self._suite.kill()

    async def _evening(self, suite: Suite) -> int:
        clip = asyncio.create_task(self._find_clip(), name="clip")
        self._show.page(self._page)
        self._show.starting()
        try:
            await suite.start()
        except ProcessError as error:
            self._show.started()
            self._show.failure(str(error), error.process.last_lines())
            return 1
        finally:
            self._show.started()
            if not suite.gateway.running:
                clip.cancel()
                await asyncio.wait([clip])  # its own failure is not the one to tell
                if not clip.cancelled():
                    clip.exception()
        keeper = asyncio.create_task(suite.supervise(), name="supervise")
        try:
            with self._show.waiting(
                f"painting {self._story.seconds} s of {self._story.about}, once"
            ):
                await asyncio.wait([clip])
            return await self._perform(suite, await clip)
        except ConfigError as error:
            self._show.failure(str(error), [])
            return 1
        finally:
            clip.cancel()
            keeper.cancel()
            await asyncio.wait([keeper, clip])

    async def _find_clip(self) -> Clip | None:
        """The sample; None when the user brings a video."""
        if self._config.source is not None:
            return None
        return await sample_clip(self._options.cache / "clips", self._story)

    async def _perform(self, suite: Suite, clip: Clip | None) -> int:
        timeouts = Timeouts(connect_s=30.0)
        async with self._connected(suite, timeouts) as client:
            try:
                session = await self._open_demo(client)
                camera = await self._open_camera(client)
            except SightlineError as error:
                self._show.failure(f"the video cannot be shown: {error}", [])
                return 1
            await self._publish(suite, session, clip)
            code = await self._ask(session, clip)
            if self._options.exit_after_questions:
                return code
            self._tell_addresses(camera)
            if self._remembers:
                self._show.line(REMEMBERS, "dim")
            if self._config.worker_model == STORY.name and (line := await relay_line()):
                self._show.line(line, "dim")
            await self._stay(client)
        return 0

    def _connected(self, suite: Suite, timeouts: Timeouts) -> aio.Client:
        if self._https is None:
            return aio.connect(suite.gateway.address, timeouts=timeouts)
        return aio.connect(
            f"https://localhost:{self._config.gateway_grpc_port}",
            timeouts=timeouts,
            token=self._https.token,
            ca=self._https.certificate,
        )

    # --- the video ---------------------------------------------------------------------------

    @property
    def _url(self) -> str | None:
        source = self._config.source
        return source if source is not None and "://" in source else None

    async def _open_demo(self, client: aio.Client) -> aio.Session:
        if self._url is not None:
            return await client.open(self._url, name=DEMO, loop=True, fps=self._config.fps)
        return await self._open_push(client, DEMO, self._config.fps, loop=True)

    async def _open_camera(self, client: aio.Client) -> aio.Session:
        """A second session, empty, for a camera of the user's."""
        return await self._open_push(client, CAMERA, 0.0)

    async def _open_push(
        self, client: aio.Client, name: str, fps: float, *, loop: bool = False
    ) -> aio.Session:
        """loop: what will be published begins again at its end, as is meant."""
        return await client.open(
            push=True,
            loop=loop,
            name=name,
            key=self._keys[name],
            fps=fps,
            grace_s=LONG_S,
        )

    @property
    def _remembers(self) -> bool:
        """Whether lines and pictures are kept of what is shown: in the Redis that goes with the
        suite they are, in another its owner says so."""
        return self._config.dialogue_redis_url is None and "GATEWAY_MEMORY" not in os.environ

    async def _publish(self, suite: Suite, session: aio.Session, clip: Clip | None) -> None:
        if self._url is not None:
            return
        path = clip.path if clip is not None else Path(self._config.source or "")
        url = f"rtmp://127.0.0.1:{self._config.gateway_rtmp_port}/live/{session.key}"
        command = await asyncio.to_thread(publisher_command, path, url)
        log = self._folder / "logs" / "publisher.log"
        log.write_bytes(b"")
        # After a signal ffmpeg says 255, or 1 while it connects.
        codes = (0, 1, 255, -signal.SIGTERM)
        publisher = Process(
            "publisher", command, log, drain_s=5.0, stopped_codes=codes, most_restart_s=2.0
        )
        await suite.add(publisher)

    async def _bring_back(self, client: aio.Client, names: set[str]) -> None:
        """Open what is missing of our two sessions: somebody removed it, or the gateway was started
        again and knows none. Keys stay what they were, so publishers find them."""
        now = asyncio.get_running_loop().time()
        if {DEMO, CAMERA} <= names or now < self._again_s:
            return
        self._again_s = now + AGAIN_S
        if DEMO not in names:
            await self._open_demo(client)
            self._show.line(f"session {DEMO} was gone; it is shown again", "dim")
        if CAMERA not in names:
            await self._open_camera(client)

    @property
    def _page(self) -> str:
        if self._https is not None:
            return f"https://{self._https.host}:{self._config.gateway_http_port}/"
        return f"http://localhost:{self._config.gateway_http_port}/"

    def _media_folder(self) -> Path:
        """The folder of the user's video, else the one of our own clips."""
        if self._config.source is not None and self._url is None:
            return Path(self._config.source).parent
        folder = self._options.cache / "clips"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    # --- questions ---------------------------------------------------------------------------

    async def _ask(self, session: aio.Session, clip: Clip | None) -> int:
        show = self._show
        what = "the sample clip" if clip is not None else redacted(self._config.source or "")
        show.line(f"\nThree questions about {what}, live:\n", "bold")
        try:
            with show.waiting("waiting for the first picture"):
                came = await session.wait_for_picture(PICTURE_S)
            if not came:
                show.failure(f"no picture came in {PICTURE_S:g} s", self._publisher_log())
                return 1
            stage = None if clip is None else tour.Stage(clip, session)
            if stage is None:
                with show.waiting("watching, so that there is something to tell of"):
                    await asyncio.sleep(min(LOOK_S, session.info.window / session.info.fps))
            told = await tour.ask(session, stage, show)
        except SightlineError as error:
            show.failure(f"no answer: {error}", [])
            return 1
        if clip is None and self._config.worker_model == self._story.name:
            show.line(f"\nThis model knows {self._story.about} and nothing else.", "dim")
        if self._options.report is not None:
            report = {"answers": [answer.as_dict() for answer in told]}
            self._options.report.write_text(json.dumps(report, indent=1) + "\n")
        return 0

    def _publisher_log(self) -> list[str]:
        log = self._folder / "logs" / "publisher.log"
        return Process("publisher", (), log).last_lines()

    # --- staying up --------------------------------------------------------------------------

    def _tell_addresses(self, camera: aio.Session) -> None:
        config = self._config
        server = f"localhost:{config.gateway_grpc_port}"
        option = "" if config.gateway_grpc_port == 50051 else f"--server {server} "
        rows = [
            ("page", self._page),
            ("gRPC", server),
            ("RTMP", f"{camera.rtmp_url}   (publish here: session {CAMERA})"),
            ("WHIP", camera.whip_url),
            ("files", f"{self._media_folder()}   (New session in the page reads these)"),
            ("logs", str(self._folder / "logs")),
        ]
        commands = [
            f'.venv/bin/sightline {option}ask {DEMO} "What is in the scene?"',
            f'.venv/bin/sightline {option}watch {DEMO} "{self._story.condition}"',
        ]
        if self._https is not None:
            rows[1:1] = [
                ("token", f"{self._https.token}   (the page asks for it)"),
                ("", "Browsers do not know this certificate: let them go on all the same."),
            ]
            given = f"--ca {self._https.certificate} --server https://{server}"
            commands = [f"export SIGHTLINE_TOKEN={self._https.token}"] + [
                command.replace(f"sightline {option}", f"sightline {given} ")
                for command in commands
            ]
        self._show.addresses(rows, commands)
        self._show.line("Ctrl-C stops everything.", "dim")

    async def _stay(self, client: aio.Client) -> None:
        self._show.running()
        while True:
            try:
                sessions = await client.sessions()
                self._show.status(sessions)
                await self._bring_back(client, {session.name for session in sessions})
            except UnavailableError:
                self._show.away()
            except SightlineError as error:
                self._show.complaint(f"the sessions could not be opened again: {error}")
            await asyncio.sleep(1.0)


async def _to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Wait for `work` whatever signals come meanwhile: a further one kills, see `kill`."""
    task = asyncio.create_task(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()


def _remove_leftovers() -> None:
    """Data of launchers that were killed before they could remove it themselves."""
    for folder in Path(tempfile.gettempdir()).glob(f"{REDIS}*-*"):
        owner = folder.name.removeprefix(REDIS).partition("-")[0]
        try:
            os.kill(int(owner), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (ValueError, PermissionError):
            continue


def checked(config: LocalConfig) -> LocalConfig:
    """The configuration with real ports. Raises ConfigError for what cannot work."""
    if config.source is not None and "://" not in config.source:
        path = Path(config.source).expanduser()
        if not path.is_file():
            raise ConfigError(f"SOURCE={config.source} is neither a file nor a URL")
        _check_video(config.source, path)
        config = replace(config, source=str(path.absolute()))
    return config.with_ports()


def check_folders(cache: Path) -> None:
    """Raise ConfigError where what a run writes has no place."""
    for folder, named in ((cache, "--cache"), (Path(os.environ.get("TMPDIR") or "/tmp"), "TMPDIR")):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            free_bytes = shutil.disk_usage(folder).free
        except OSError as error:
            raise ConfigError(
                f"nothing can be written to {folder} ({error.strerror}): "
                f"name another folder with {named}"
            ) from None
        if free_bytes < LEAST_FREE_BYTES:
            raise ConfigError(
                f"{folder} has {free_bytes >> 20} MiB left, and a run needs "
                f"{LEAST_FREE_BYTES >> 20}: make room, or name another folder with {named}"
            )


def _check_video(source: str, path: Path) -> None:
    """Raise ConfigError for a file that holds no video we can show."""
    import av

    try:
        with av.open(str(path)) as container:
            if any(True for _ in container.decode(video=0)):
                return
    except (av.FFmpegError, IndexError, OSError, ValueError):
        pass
    raise ConfigError(f"SOURCE={source} is no video that can be read")
