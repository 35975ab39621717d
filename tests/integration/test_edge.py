"""Edge mode: a suite that sends nothing out, in a network of its own that counts every packet.

The network has a way out that looks like any other; whoever tries it is counted.
"""

import json
from pathlib import Path

import pytest

from tests.networks import run_within

pytestmark = pytest.mark.option

NETWORK = """
ip link set lo up
ip link add out type veth peer name nowhere
for each in out nowhere; do
  echo 1 > /proc/sys/net/ipv6/conf/$each/disable_ipv6
  ip link set $each up
done
ip addr add 203.0.113.2/24 dev out
ip route add default via 203.0.113.1
"""


def test_nothing_leaves_the_site(tmp_path: Path) -> None:
    told = run_within(
        NETWORK, "tests.integration.edge", str(tmp_path), home=tmp_path, timeout_s=300
    )
    found = json.loads(told)
    assert found["answer"], "questions are answered"
    assert found["refused"] == ["INVALID_ARGUMENT"] * 3, "sources outside are refused"
    assert found["hub_exit"] == 2, "a model of the hub is not downloaded"
    assert found["packets"] == 0
    assert found["packets_without"] > 0, "without edge mode the same is counted"
