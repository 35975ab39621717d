"""A camera and a viewer behind a home's router, a gateway behind an office's: one port of it is
enough, by UDP, or by TCP where the home lets no UDP out."""

import json
from pathlib import Path

import pytest

from tests.e2e.nat import NETWORK
from tests.networks import run_within

pytestmark = [pytest.mark.needs("chromium", "chromedriver"), pytest.mark.option]
OF_VIDEO = 20_000  # bytes; what finds out which ways there are is less


@pytest.mark.timeout(600)
def test_one_port_is_enough_through_two_nats(tmp_path: Path) -> None:
    told = run_within(
        NETWORK, "tests.e2e.nat", "office", str(tmp_path), home=tmp_path, timeout_s=500
    )
    by_udp, by_tcp = json.loads(told)
    for found in (by_udp, by_tcp):
        assert found["understood"]
        assert found["played"]
    assert by_udp["by-udp"] > OF_VIDEO > by_udp["by-tcp"]
    assert by_tcp["by-tcp"] > OF_VIDEO
    assert by_tcp["by-udp"] == 0
