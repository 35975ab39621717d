"""An answer from memory on the page: the moment that it is made of, with its picture."""

from collections.abc import Callable

import av
import grpc
import numpy as np
import pytest

from services.common.jpeg import encode_jpeg
from services.local.clip import Clip
from sightline.v1 import dialogue_pb2, dialogue_pb2_grpc
from tests.e2e.browser import ENTER, Page
from tests.eventually import wait_until
from tests.suite import Suite

pytestmark = pytest.mark.option

NS = 1_000_000_000
IMAGE = "document.querySelector('.remembered img')"


def a_red_circle() -> bytes:
    pixels = np.full((128, 128, 3), 60, np.uint8)
    y, x = np.mgrid[:128, :128]
    pixels[(x - 64) ** 2 + (y - 60) ** 2 < 20**2] = (215, 35, 40)
    frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
    return encode_jpeg(frame.reformat(format="yuvj420p", dst_color_range="JPEG"))


def test_an_answer_about_the_past_shows_the_moment(
    open_page: Callable[..., Page], suite: Suite, clip: Clip
) -> None:
    session = suite.open(clip.path.name, name="kept", memory="MEMORY_KIND_PICTURES")["id"]

    def newest_ns() -> int:
        stats = suite.api("GET", f"api/sessions/{session}").get("stats", {})
        return int(stats.get("last_capture_ns", 0))

    start_ns = wait_until(newest_ns) - 600 * NS
    moment = dialogue_pb2.Moment(
        start_ns=start_ns,
        end_ns=start_ns + 15 * NS,
        line="a red circle",
        pictures=[a_red_circle()],
    )
    with grpc.insecure_channel(suite.dialogue.address) as channel:
        stub = dialogue_pb2_grpc.DialogueServiceStub(channel)
        stub.KeepMoment(dialogue_pb2.KeepMomentRequest(session=session, moment=moment), timeout=10)
    page = open_page()
    page.wait_text("#line-state", "connected")
    page.type("#question", "What was in the scene ten minutes ago?" + ENTER)
    page.wait_text(".answer .about", "whole answer")
    assert page.text(".answer .words").startswith("From memory, ")
    assert "a red circle" in page.text(".answer .words")
    assert "a red circle" in page.text(".remembered figcaption")
    page.wait(f"return {IMAGE}.naturalWidth === 128 && !{IMAGE}.hidden")
