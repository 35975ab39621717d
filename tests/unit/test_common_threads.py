"""Work on threads that nobody waits for at the end."""

import asyncio
import subprocess
import sys
import threading
import time

import pytest

from services.common.threads import Lane, on_thread


async def test_results_and_errors_come_back_in_order() -> None:
    lane = Lane("lane")
    names: list[str] = []
    for _ in range(3):
        await lane.run(lambda: names.append(threading.current_thread().name))
    with pytest.raises(ZeroDivisionError):
        await lane.run(lambda: 1 // 0)
    assert await lane.run(divmod, 7, 2) == (3, 1)
    lane.close()
    with pytest.raises(RuntimeError, match="closed"):
        await lane.run(print)
    assert names == ["lane"] * 3
    assert await on_thread(divmod, 7, 2, name="once") == (3, 1)


async def test_what_was_cancelled_before_it_began_is_not_done() -> None:
    lane, done, holding = Lane("lane"), [], threading.Event()
    first = asyncio.create_task(lane.run(holding.wait))
    second = asyncio.create_task(lane.run(done.append, 1))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    holding.set()
    await first
    await lane.run(int)
    lane.close()
    assert not done


def test_no_end_waits_for_them() -> None:
    """As a decoder that is busy for a minute would be."""
    program = (
        "import asyncio, time\n"
        "from services.common.threads import Lane, on_thread\n"
        "async def main():\n"
        "    lane = Lane('busy')\n"
        "    tasks = [asyncio.create_task(lane.run(time.sleep, 60)),\n"
        "             asyncio.create_task(on_thread(time.sleep, 60, name='busy'))]\n"
        "    await asyncio.sleep(0.1)\n"
        "    [task.cancel() for task in tasks]\n"
        "asyncio.run(main())\n"
    )
    began_s = time.monotonic()
    assert subprocess.run([sys.executable, "-c", program], timeout=50, check=False).returncode == 0
    assert time.monotonic() - began_s < 30
