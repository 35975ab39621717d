"""Lines of memory wait for each other, and not for long."""

import asyncio

from services.inference_worker.serving.company import Company
from tests.eventually import PATIENCE_S, eventually


async def test_callers_go_on_together_when_there_are_enough() -> None:
    company, gone = Company(3, 600.0), list[int]()

    async def come(number: int) -> None:
        await company.wait()
        gone.append(number)

    tasks = [asyncio.ensure_future(come(number)) for number in range(2)]
    await asyncio.sleep(0)
    assert not gone
    await asyncio.wait_for(come(2), PATIENCE_S)
    await asyncio.gather(*tasks)
    assert sorted(gone) == [0, 1, 2]
    alone = asyncio.ensure_future(come(3))
    await asyncio.sleep(0)
    assert not alone.done(), "the next wait anew"
    alone.cancel()


async def test_nobody_waits_for_company_for_ever_or_for_one_who_has_left() -> None:
    company = Company(2, 0.01)
    await asyncio.wait_for(company.wait(), PATIENCE_S)
    company = Company(2, 600.0)
    left = asyncio.ensure_future(company.wait())
    await asyncio.sleep(0)
    left.cancel()
    await eventually(left.done)
    waiting = asyncio.ensure_future(company.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    await company.wait()
    await waiting
    await Company(8, 0.0).wait()
