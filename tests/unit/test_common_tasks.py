"""Named tasks and the newest-wins queue."""

import asyncio
import logging

import pytest

from services.common.tasks import NewestQueue, QueueClosed, cancel_and_wait, spawn


async def test_the_newest_items_stay_and_every_drop_is_reported() -> None:
    dropped: list[int] = []
    queue = NewestQueue[int](3, dropped.append)
    for number in range(10):
        queue.put_nowait(number)
    assert dropped == [0, 1, 2, 3, 4, 5, 6]
    assert [await queue.get() for _ in range(3)] == [7, 8, 9]
    assert len(queue) == 0


async def test_close_lets_readers_finish_and_refuses_writers() -> None:
    queue = NewestQueue[int](2)
    queue.put_nowait(1)
    queue.close()
    queue.put_nowait(2)
    assert await queue.get() == 1
    with pytest.raises(QueueClosed):
        await queue.get()


async def test_close_wakes_every_waiting_reader() -> None:
    queue = NewestQueue[int](2)
    readers = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.put_nowait(5)
    queue.close()
    results = await asyncio.gather(*readers, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == [
        "QueueClosed",
        "QueueClosed",
        "int",
    ]


async def test_a_cancelled_reader_loses_nothing() -> None:
    queue = NewestQueue[int](2)
    reader = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.put_nowait(1)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    assert await queue.get() == 1


def test_a_queue_has_room_for_something() -> None:
    with pytest.raises(ValueError, match="capacity"):
        NewestQueue[int](0)


async def test_a_failed_task_is_logged_with_its_name(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("no")

    with caplog.at_level(logging.ERROR):
        task = spawn(fail(), name="session-7:frames")
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0)
    assert [record.task for record in caplog.records] == ["session-7:frames"]  # type: ignore[attr-defined]


async def test_cancel_and_wait_returns_when_tasks_have_cleaned_up() -> None:
    cleaned = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    tasks = [spawn(work(), name=f"work {number}") for number in range(2)]
    await asyncio.sleep(0)
    await cancel_and_wait(*tasks, None)
    assert cleaned == [True, True]
    assert all(task.cancelled() for task in tasks)
