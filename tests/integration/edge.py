"""What `test_edge` runs within a network of its own: a suite in edge mode, then one without."""

import json
import sys
from pathlib import Path

import numpy as np

import sightline
from sightline.errors import SightlineError
from tests.eventually import wait_until
from tests.processes import SHAPES, RedisServer, ServiceProcess

# Public addresses, which this network does not lead to.
OUTSIDE = ("http://93.184.215.14/a.mp4", "rtsp://93.184.215.14/live", "rtmp://93.184.215.14/live/x")


def sent() -> int:
    """Packets that have left, or tried to: ARP asks for the way."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == "out":
            return int(figures.split()[9])
    raise RuntimeError("no network")


def refusals(client: sightline.Client) -> list[str]:
    refused = []
    for url in OUTSIDE:
        try:
            client.open(url).delete()
        except SightlineError as error:
            refused.append(error.code.name)
    return refused


def main(folder: Path) -> None:
    redis = RedisServer(folder)
    redis.start()
    dialogue = ServiceProcess(
        "dialogue", {"DIALOGUE_REDIS_URL": redis.url, "DIALOGUE_EDGE": "1"}, folder
    )
    dialogue.start()
    worker = ServiceProcess(
        "inference_worker",
        {
            "WORKER_MODEL": str(SHAPES),
            "WORKER_THREADS": "1",
            "WORKER_MAX_SESSIONS": "8",
            "WORKER_DIALOGUE": dialogue.address,
            "WORKER_EDGE": "1",
        },
        folder,
    )
    worker.start(120)
    settings = {"GATEWAY_WORKERS": worker.address, "GATEWAY_DIALOGUE": dialogue.address}
    settings["GATEWAY_RTMP_PORT"] = ""
    gateway = ServiceProcess("gateway", {**settings, "GATEWAY_EDGE": "1"}, folder)
    gateway.start()
    before = sent()
    with sightline.connect(gateway.address) as client:
        wait_until(lambda: client.info().models)
        with client.open(push=True) as session:
            session.push(np.zeros((128, 128, 3), np.uint8))
            answer = session.ask("what do you see?").result().text
        refused = refusals(client)
    hub = ServiceProcess(
        "inference_worker", {"WORKER_MODEL": "someone/something", "WORKER_EDGE": "1"}, folder
    )
    hub.spawn()
    assert hub.process is not None
    hub_exit = hub.process.wait(120)
    packets = sent() - before
    gateway.stop()

    open_gateway = ServiceProcess("gateway", settings, folder)
    open_gateway.start()
    before = sent()
    with sightline.connect(open_gateway.address) as client:
        wait_until(lambda: client.info().models)
        refusals(client)
    found = {
        "answer": answer,
        "refused": refused,
        "hub_exit": hub_exit,
        "packets": packets,
        "packets_without": sent() - before,
    }
    for service in (open_gateway, worker, dialogue):
        service.stop()
    redis.kill()
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
