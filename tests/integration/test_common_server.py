"""The bootstrap that every service shares: its end is orderly whenever it comes."""

import subprocess
import sys

import pytest

from tests.processes import REPOSITORY

PROGRAM = """
import asyncio, os, signal, sys
from services.common.config import ServiceConfig
from services.common.log import set_up_logging
from services.common.server import ServiceHost

def terminate():
    os.kill(os.getpid(), signal.SIGTERM)

async def fail():
    raise RuntimeError("the drain's defect")

async def never():
    await asyncio.Event().wait()

async def main():
    host = ServiceHost(name="test", config=ServiceConfig(drain_s=0.1), full_names=())
    await host.start()
    {body}

set_up_logging("test", "info")
asyncio.run(main())
"""


def _run(body: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{body}", body)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stderr


def test_sigterm_during_warm_up_ends_in_order_and_never_serves() -> None:
    log = _run("terminate(); await asyncio.sleep(0.05); await host.run()")
    assert '"stopped"' in log
    assert '"serving"' not in log


@pytest.mark.parametrize(("drain", "message"), [("fail", "failed"), ("never", "timed out")])
def test_a_drain_that_goes_wrong_stops_the_servers_all_the_same(drain: str, message: str) -> None:
    later = "asyncio.get_running_loop().call_later(0.05, terminate)"
    log = _run(f"{later}; await host.run({drain})")
    assert f'"drain {message}"' in log
    assert '"serving"' in log
    assert '"stopped"' in log
