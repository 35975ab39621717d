"""The page shows what is said in a video that is listened to."""

import asyncio

from sightline.v1 import gateway_pb2 as pb
from tests.e2e.browser import Driver
from tests.eventually import eventually
from tests.unit.http_parts import served


async def test_what_is_said_stands_under_the_picture(driver: Driver) -> None:
    async with served() as (parts, client):
        session = await parts.push_session(seen=True, name="kitchen")
        page = driver.page()
        try:
            address = f"{client.make_url('/')}#{session.id}"
            await asyncio.to_thread(page.goto, address)
            await eventually(lambda: parts.viewers.all())
            await eventually(lambda: parts.viewers.all()[0].detached_s is None)
            parts.viewers._said(session, pb.Said(text="This one is red."))
            shown = await asyncio.to_thread(page.wait_text, "#said", "This one is red.")
            assert shown == "“This one is red.”"
        finally:
            await asyncio.to_thread(page.close)
