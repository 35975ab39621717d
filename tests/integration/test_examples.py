"""Every program of examples/, run as its own page says, against one suite.

Those of other people's clients are in test_example_clients.py.
"""

import base64
import http.server
import itertools
import json
import re
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from services.local.clip import Clip
from tests.eventually import wait_until
from tests.examples import EXAMPLES, command, environment
from tests.rtsp_server import RtspServer
from tests.suite import Annex, Suite, passing_condition, write_clip

HOME_ASSISTANT = "sightline.local:8080"
QUESTION = "What is in the scene?"


@pytest.fixture(scope="module")
def shop(suite: Suite, clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite that watches `demo` and `door`, and may read cameras of this machine."""
    allowed = {"GATEWAY_URL_ALLOW": "127.0.0.0/8", "GATEWAY_ALLOWED_HOSTS": "sightline.local"}
    shop = Annex(suite, tmp_path_factory.mktemp("examples"), allowed)
    shop.start()
    for name in ("demo", "door"):
        shop.open(clip.path.name, name=name, labels={"place": name})
    for name in ("demo", "door"):
        seen = f"api/sessions/{name}"
        wait_until(lambda seen=seen: shop.api("GET", seen)["stats"].get("frames_processed"))
    yield shop
    shop.delete_sessions()
    shop.stop()


def _run(suite: Suite, name: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """What a program printed. It must end by itself, and well."""
    done = subprocess.run(
        command(name, *arguments, "--server", suite.address),
        env=environment(),
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done


@pytest.fixture
def receiver() -> Iterator[http.server.HTTPServer]:
    """A webhook that is away the first time; `bodies` is what came."""

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.tries += 1  # type: ignore[attr-defined]
            away = self.server.tries == 1  # type: ignore[attr-defined]
            if not away:
                self.server.bodies.append(json.loads(body))  # type: ignore[attr-defined]
            self.send_response(503 if away else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.tries, server.bodies = 0, []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_an_alarm_of_an_rtsp_camera_reaches_a_webhook_that_was_away(
    shop: Suite, receiver: Any, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path, seed=3, seconds=8)
    camera = RtspServer(clip=clip.path)
    condition = passing_condition(clip)
    address, hook = f"rtsp://127.0.0.1:{camera.port}/", f"http://127.0.0.1:{receiver.server_port}/"
    try:
        _run(shop, "rtsp_alarm.py", address, condition, hook, "--hold", "0.1", "--events", "2")
    finally:
        camera.close()
    assert [body["active"] for body in receiver.bodies] == [True, False]
    assert receiver.tries == 3
    for body in receiver.bodies:
        assert body["condition"] == condition
        assert body["picture"].startswith("/9j/")  # a JPEG's first bytes
        assert re.match(r"20\d\d-\d\d-\d\dT", body["at"])
    names = [each["name"] for each in shop.api("GET", "api/sessions")["sessions"]]
    assert sorted(names) == ["demo", "door"]  # it left nothing behind


def test_a_commentator_never_says_the_same_twice_in_a_row(shop: Suite) -> None:
    options = ("--every", "0.5", "--for", "6")
    said = _run(shop, "commentator.py", "demo", *options).stdout.decode().splitlines()
    words = [line.partition(" s  ")[2] for line in said]
    assert len(words) > 1
    assert all(words)
    assert all(one != other for one, other in itertools.pairwise(words))


def test_a_commentator_speaks(shop: Suite) -> None:
    done = _run(shop, "commentator.py", "demo", "--aloud", "--for", "0.1", "--every", "0.1")
    assert b" s  " in done.stderr
    assert len(done.stdout) > 10_000


def test_cameras_are_decided_about_at_once(shop: Suite) -> None:
    statements = ("a red circle is there", "a blue square is there")
    table = _run(shop, "cameras.py", *statements).stdout.decode().splitlines()
    assert table[0].split("  ")[0].strip() == "camera"
    assert [line.split()[0] for line in table[1:]] == ["demo", "door"]
    for line in table[1:]:
        assert all(0 <= float(cell) <= 1 for cell in line.split()[1:])
    one = _run(
        shop, "cameras.py", "a {} circle is there", "--choices", "red,blue", "--label", "place=door"
    )
    [_, row] = one.stdout.decode().splitlines()
    assert re.fullmatch(r"door +(red|blue) [01]\.\d\d *", row)


def test_a_camera_that_cannot_be_asked_is_a_row_of_its_own(shop: Suite) -> None:
    shop.api("POST", "api/sessions", {"push": {}, "options": {"name": "empty"}})
    try:
        table = _run(shop, "cameras.py", "a red circle is there").stdout.decode().splitlines()
    finally:
        shop.api("DELETE", "api/sessions/empty")
    assert table[-1].split() == ["empty", "NO_FRAME_YET"]
    assert len(table) == 4


class _OpenWebUi:
    """What Open WebUI's server sends to a connection of the kind OpenAI."""

    def __init__(self, suite: Suite, settings: dict[str, str]) -> None:
        self.base = settings["OPENAI_API_BASE_URL"].replace("http://localhost:8080/", suite.url)
        self.key = settings["OPENAI_API_KEY"]

    def models(self) -> list[dict[str, Any]]:
        with self._open("models") as reply:
            return list(json.load(reply)["data"])

    def completion(self, **body: Any) -> dict[str, Any]:
        with self._open("chat/completions", {**body, "stream": False}) as reply:
            return dict(json.load(reply))

    def streamed(self, **body: Any) -> tuple[str, dict[str, Any]]:
        """Text and usage, read line by line as its page reads them."""
        asked = {"stream": True, "stream_options": {"include_usage": True}, **body}
        text, usage, ended = "", {}, False
        with self._open("chat/completions", asked) as reply:
            assert "text/event-stream" in reply.headers["Content-Type"]
            for line in reply:
                data = line.decode().strip().removeprefix("data:").strip()
                ended = ended or data == "[DONE]"
                if data and not ended:
                    chunk = json.loads(data)
                    usage = chunk.get("usage") or usage
                    for choice in chunk["choices"]:
                        text += choice["delta"].get("content") or ""
        assert ended
        return text, usage

    def _open(self, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {
            "Authorization": f"Bearer {self.key}",
            "Content-Type": "application/json",
            "X-OpenWebUI-User-Name": "Ada%20L",
            "X-OpenWebUI-Chat-Id": "c-1",
        }
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.base}/{path}", data, headers)
        return urllib.request.urlopen(request, timeout=60)


def test_open_webui_finds_the_streams_and_talks_with_one(shop: Suite) -> None:
    compose = yaml.safe_load((EXAMPLES / "open_webui" / "compose.yaml").read_text())
    settings = compose["services"]["open-webui"]["environment"]
    webui, model = _OpenWebUi(shop, settings), settings["DEFAULT_MODELS"]
    assert [each["id"] for each in webui.models()] == [
        "shapes",
        "sightline://demo",
        "sightline://door",
    ]
    asked = {"role": "user", "content": QUESTION}
    system = {"role": "system", "content": "You look at a live stream."}
    said, usage = webui.streamed(model=model, messages=[system, asked])
    assert said
    assert usage["completion_tokens"] > 0
    history = [asked, {"role": "assistant", "content": said}]
    again = {"role": "user", "content": "How many objects are there?"}
    assert webui.streamed(model=model, messages=[*history, again])[0]


def test_open_webui_shows_a_picture_and_wants_a_title(shop: Suite) -> None:
    compose = yaml.safe_load((EXAMPLES / "open_webui" / "compose.yaml").read_text())
    webui = _OpenWebUi(shop, compose["services"]["open-webui"]["environment"])
    with urllib.request.urlopen(f"{shop.url}api/sessions/demo/preview.jpg") as reply:
        picture = "data:image/jpeg;base64," + base64.b64encode(reply.read()).decode()
    content = [
        {"type": "text", "text": QUESTION},
        {"type": "image_url", "image_url": {"url": picture}},
    ]
    assert webui.streamed(model="shapes", messages=[{"role": "user", "content": content}])[0]
    # Where it is not switched off, titles and tags are wanted of the model of the conversation.
    task = {"role": "user", "content": "### Task:\nGenerate a concise title. JSON: {}"}
    title = webui.completion(model="sightline://demo", messages=[task], max_completion_tokens=1000)
    assert title["choices"][0]["message"]["content"]


class _Secrets(yaml.SafeLoader):
    """Home Assistant's YAML, as far as the example uses it."""


_Secrets.add_constructor("!secret", lambda loader, node: f"Bearer {node.value}")


class _HomeAssistant:
    """What Home Assistant's `rest` and `rest_command` make of a configuration."""

    def __init__(self, suite: Suite, configuration: dict[str, Any]) -> None:
        self._suite, self._rest = suite, configuration["rest"]
        self._commands = configuration["rest_command"]
        self._templates = jinja2.Environment()
        self._templates.filters["to_json"] = json.dumps

    def states(self) -> dict[str, str]:
        """States of all sensors, read once."""
        found = {}
        for entry in self._rest:
            reply = self._call(entry, entry["resource"], entry.get("payload"))
            for sensor in entry.get("sensor", []) + entry.get("binary_sensor", []):
                found[sensor["name"]] = self.render(sensor["value_template"], value_json=reply)
                assert set(sensor.get("json_attributes", [])) <= set(reply)
        return found

    def act(self, name: str, data: dict[str, Any]) -> dict[str, Any]:
        entry = self._commands[name]
        url, payload = self.render(entry["url"], **data), self.render(entry["payload"], **data)
        return {"status": 200, "content": self._call(entry, url, payload)}

    def render(self, template: str, **values: Any) -> str:
        return self._templates.from_string(template).render(**values)

    def _call(self, entry: dict[str, Any], url: str, payload: str | None) -> Any:
        kind = {"Content-Type": entry["content_type"]} if "content_type" in entry else {}
        address = url.replace(f"http://{HOME_ASSISTANT}/", self._suite.url)
        request = urllib.request.Request(
            address,
            None if payload is None else payload.encode(),
            {**entry["headers"], **kind, "Host": HOME_ASSISTANT},
            method=entry.get("method", "GET"),
        )
        with urllib.request.urlopen(request, timeout=entry.get("timeout", 10)) as reply:
            return json.load(reply)


def test_home_assistants_sensors_and_its_action(shop: Suite) -> None:
    text = (EXAMPLES / "home_assistant" / "configuration.yaml").read_text()
    configuration = yaml.load(text, _Secrets)
    home = _HomeAssistant(shop, configuration)
    states = home.states()
    assert states.pop("Door stream") == "live"
    assert set(states) == {"Person at the door", "Parcel at the door"}
    assert set(states.values()) <= {"True", "False"}
    [automation] = configuration["automation"]
    asking, telling = automation["actions"]
    entity = automation["triggers"][0]["entity_id"].removeprefix("binary_sensor.")
    assert entity in {name.lower().replace(" ", "_") for name in states}
    payload = configuration["rest_command"]["sightline_ask"]["payload"]
    assert json.loads(home.render(payload, question='a "red" one?')) == {"question": 'a "red" one?'}
    data = {**asking["data"], "question": "Is there a circle?"}
    answer = home.act(asking["action"].removeprefix("rest_command."), data)
    message = home.render(telling["data"]["message"], **{asking["response_variable"]: answer})
    assert message in {"yes", "no"}, answer
