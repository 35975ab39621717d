"""Alarm of a camera: whenever a condition begins or ends, a webhook hears of it, with the picture.

    python examples/rtsp_alarm.py rtsp://192.168.1.20/stream "a person is at the door" https://example.com/hook

Cameras of your own network want `make run GATEWAY_URL_ALLOW=192.168.1.0/24`. An alarm that outlives
the program that set it is a rule with a webhook: docs/rules.md.
"""

import argparse
import base64
import datetime
import json
import time
import urllib.request

import sightline


def tell(webhook: str, event: sightline.Event, picture: bytes) -> None:
    """POST an event as JSON; a receiver that is away is tried again."""
    when = datetime.datetime.fromtimestamp(event.capture_ns / 1e9, datetime.UTC)
    body = {
        "condition": event.condition,
        "active": event.active,
        "probability": round(event.score, 3),
        "at": when.isoformat(),
        "picture": base64.b64encode(picture).decode(),
    }
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(webhook, json.dumps(body).encode(), headers)
    for wait_s in (1, 5, 30, None):
        try:
            urllib.request.urlopen(request, timeout=10).close()
            return
        except OSError as error:
            print(f"webhook: {error}")
            time.sleep(wait_s or 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("camera", help="rtsp://… (or any other source that a server reads)")
    parser.add_argument("condition", help="a statement that may hold of the picture")
    parser.add_argument("webhook", help="where events are posted")
    parser.add_argument("--server", help="$SIGHTLINE_SERVER, else localhost:50051")
    parser.add_argument("--hold", type=float, default=1.0, help="seconds that a change must hold")
    parser.add_argument("--events", type=int, help="end after so many")
    options = parser.parse_args()

    with (
        sightline.connect(options.server) as client,
        client.open(options.camera) as session,
    ):
        print(f"watching {options.camera} for {options.condition!r}")
        watch = session.watch(options.condition, debounce_s=options.hold, limit=options.events)
        for event in watch:
            print("began" if event.active else "ended", f"{event.score:.2f}", flush=True)
            tell(options.webhook, event, session.picture())


if __name__ == "__main__":
    main()
