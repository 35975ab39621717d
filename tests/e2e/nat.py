"""What `test_behind_nat` runs: a gateway at an office and a browser at home, behind their routers.

The routers are one namespace, which has the public addresses of both: it gives the home's packets
its own address, and passes one port of the office's on to the gateway, by another number.
"""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from tests.e2e.browser import Driver
from tests.eventually import wait_until
from tests.processes import SHAPES, ServiceProcess

PUBLIC, HTTP_PORT = "203.0.113.7", 8080
WEBRTC_PORT, PASSED_ON = 8189, 30189
URL = f"http://{PUBLIC}:{HTTP_PORT}/"
NETWORK = f"""
mount -t tmpfs none /run
ip link set lo up
for name in routers home; do ip netns add $name; ip -n $name link set lo up; done
ip link add office type veth peer name to-office netns routers
ip link add at-home netns home type veth peer name to-home netns routers
ip addr add 10.0.0.2/24 dev office
ip -n routers addr add 10.0.0.1/24 dev to-office
ip -n home addr add 192.168.1.2/24 dev at-home
ip -n routers addr add 192.168.1.1/24 dev to-home
ip -n routers addr add {PUBLIC}/32 dev lo
ip -n routers addr add 198.51.100.1/32 dev lo
ip link set office up
ip -n home link set at-home up
ip -n routers link set to-office up
ip -n routers link set to-home up
ip route add default via 10.0.0.1
ip -n home route add default via 192.168.1.1
ip netns exec routers sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
ip netns exec routers nft -f - <<END
table ip nat {{
  chain in {{
    type nat hook prerouting priority dstnat;
    ip daddr {PUBLIC} tcp dport {HTTP_PORT} dnat to 10.0.0.2
    ip daddr {PUBLIC} tcp dport {PASSED_ON} dnat to 10.0.0.2:{WEBRTC_PORT}
    ip daddr {PUBLIC} udp dport {PASSED_ON} dnat to 10.0.0.2:{WEBRTC_PORT}
  }}
  chain out {{
    type nat hook postrouting priority srcnat;
    oifname "to-office" ip saddr 192.168.1.0/24 snat to 198.51.100.1
  }}
}}
table ip filter {{
  counter by-udp {{ }}
  counter by-tcp {{ }}
  chain through {{
    type filter hook forward priority filter; policy drop;
    ct state new iifname "to-office" drop
    oifname "to-office" udp dport {WEBRTC_PORT} counter name "by-udp"
    oifname "to-office" tcp dport {WEBRTC_PORT} counter name "by-tcp"
    accept
  }}
}}
END
"""
PLAYED = (
    "return document.querySelector('#preview-video').getVideoPlaybackQuality().totalVideoFrames"
)
PLAYS = "const v = document.querySelector('#preview-video'); return !v.hidden && v.videoWidth > 0"
PATIENCE_S = 120


def routers(*command: str) -> str:
    return subprocess.check_output(["ip", "netns", "exec", "routers", *command], text=True)


def carried() -> dict[str, int]:
    """Bytes of WebRTC that reached the office, by UDP and by TCP."""
    listed = json.loads(routers("nft", "-j", "reset", "counters"))["nftables"]
    counters = [each["counter"] for each in listed if "counter" in each]
    return {each["name"]: each["bytes"] for each in counters}


def office(folder: Path) -> None:
    """Start a suite, let the browser at home use it, and again where its router lets no UDP out."""
    worker = ServiceProcess(
        "inference_worker", {"WORKER_MODEL": str(SHAPES), "WORKER_THREADS": "1"}, folder
    )
    worker.start(PATIENCE_S)
    settings = {
        "GATEWAY_WORKERS": worker.address,
        "GATEWAY_HOST": "0.0.0.0",
        "GATEWAY_AUTH": "open",
        "GATEWAY_ALLOWED_HOSTS": PUBLIC,
        "GATEWAY_HTTP_PORT": str(HTTP_PORT),
        "GATEWAY_RTMP_PORT": "",
        "GATEWAY_WEBRTC_PORT": str(WEBRTC_PORT),
        "GATEWAY_WEBRTC_ADDRESSES": f"{PUBLIC}:{PASSED_ON}",
    }
    gateway = ServiceProcess("gateway", settings, folder)
    gateway.start()
    found = []
    for way in ("open", "no-udp"):
        if way == "no-udp":
            routers(
                "nft", "insert", "rule", "ip", "filter", "through", "meta", "l4proto", "udp", "drop"
            )
        carried()
        (folder / way).mkdir()
        command = ["ip", "netns", "exec", "home", sys.executable, "-m", "tests.e2e.nat", "home"]
        done = subprocess.run([*command, str(folder / way)], capture_output=True, text=True)
        if done.returncode:
            print(done.stderr[-3000:], file=sys.stderr)
            sys.exit(1)
        found.append({**json.loads(done.stdout.splitlines()[-1]), **carried()})
    gateway.stop()
    worker.stop()
    print(json.dumps(found))


def home(folder: Path) -> None:
    """Publish the browser's camera by WHIP, and watch it by WHEP in another tab."""
    driver = Driver(folder, [f"--unsafely-treat-insecure-origin-as-secure={URL}"])
    driver.start()
    try:
        host = driver.page()
        host.goto(URL)
        host.wait_text("#camera", "Use my camera", timeout_s=PATIENCE_S)
        host.click("#camera")
        host.wait_text("#camera", "Stop my camera", timeout_s=PATIENCE_S)
        understood = wait_until(_understood, timeout_s=PATIENCE_S)
        viewer = driver.page()
        viewer.goto(URL)
        viewer.wait(PLAYS, timeout_s=PATIENCE_S)
        played = viewer.wait(f"{PLAYED} > 20", timeout_s=PATIENCE_S)
        print(json.dumps({"understood": understood, "played": played}))
    finally:
        driver.stop()


def _understood() -> int:
    with urllib.request.urlopen(f"{URL}api/sessions", timeout=20) as reply:
        sessions: list[dict[str, Any]] = json.load(reply)["sessions"]
    return max(
        (int(each.get("stats", {}).get("frames_processed", 0)) for each in sessions), default=0
    )


if __name__ == "__main__":
    {"office": office, "home": home}[sys.argv[1]](Path(sys.argv[2]))
