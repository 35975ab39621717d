"""Edge mode: a suite that sends nothing out, in a network of its own that counts every packet.

The network has a way out that looks like any other; whoever tries it is counted.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forking
from tests.processes import REPOSITORY

pytestmark = pytest.mark.option

NETWORK = """
set -e
ip link set lo up
ip link add out type veth peer name nowhere
for each in out nowhere; do
  echo 1 > /proc/sys/net/ipv6/conf/$each/disable_ipv6
  ip link set $each up
done
ip addr add 203.0.113.2/24 dev out
ip route add default via 203.0.113.1
exec "$@"
"""


def namespaced(*command: str) -> list[str]:
    return ["unshare", "-rnm", "sh", "-c", NETWORK, "network", *command]


def can_make_networks() -> bool:
    try:
        made = subprocess.run(namespaced("true"), capture_output=True, timeout=20)
    except OSError:
        return False
    return made.returncode == 0


@pytest.mark.skipif(not can_make_networks(), reason="needs unshare and ip, and may make networks")
def test_nothing_leaves_the_site(tmp_path: Path) -> None:
    done = subprocess.run(
        namespaced(sys.executable, "-m", "tests.integration.edge", str(tmp_path)),
        cwd=REPOSITORY,
        # A copy would be in its template's network.
        env={**os.environ, "HOME": str(tmp_path), forking.IMPORTS: "anew"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["answer"], "questions are answered"
    assert found["refused"] == ["INVALID_ARGUMENT"] * 3, "sources outside are refused"
    assert found["hub_exit"] == 2, "a model of the hub is not downloaded"
    assert found["packets"] == 0
    assert found["packets_without"] > 0, "without edge mode the same is counted"
