"""Whatever an address or a body holds: no operation of the HTTP interface answers with a defect."""

import json
from typing import Any
from urllib.parse import quote

from yarl import URL

from tests.unit.http_parts import Client, served

ODD = (
    *("", " ", "\x00", "a\r\nb", "../../etc/passwd", "%s%n", "/", "x" * 300, "\ud7ff\U0010ffff"),
    *("-1", "1e308", "-1e308", "1e999", "-1e30", "1e11", "NaN", "9" * 18, "9" * 19, "9" * 30),
    *("\u0661", "1_000", "0x10", "null", "1,2", "sightline://", "a;b='\"<"),
)
BODIES = (b"", b"{", b"null", b"[]", b'"x"', b"1", b"\xff", b'{"a":' * 5000)
NAMES = {"session": "kitchen", "file": "live.m3u8", "model": "builtin"}  # of what is there


async def _check(client: Client, method: str, path: str, **more: Any) -> None:
    async with client.request(method, URL(path, encoded=True), **more) as reply:
        assert reply.status < 500 or reply.status == 503, (method, path, more, await reply.text())
        if reply.status >= 400:
            told = json.loads(await reply.text())
            assert told.get("message") or told["error"]["message"], (method, path, more)


def _path(template: str, **odd: str) -> str:
    path = template
    for name, value in (NAMES | odd).items():
        path = path.replace(f"{{{name}}}", value)
    return path.replace("{", "").replace("}", "")


async def test_no_parameter_and_no_body_is_a_defect() -> None:
    async with served() as (parts, client):
        await parts.push_session(name="kitchen")
        api = await (await client.get("/openapi.json")).json()
        operations = [
            (method, path, declared)
            for path, methods in api["paths"].items()
            for method, declared in methods.items()
        ]
        for method, path, declared in sorted(operations, key=lambda each: each[0] == "delete"):
            for parameter in declared.get("parameters", []):
                name = parameter["name"]
                for value in ODD:
                    text = quote(value, safe="")
                    if parameter["in"] == "path":
                        await _check(client, method, _path(path, **{name: text or "%20"}))
                    elif parameter["in"] == "query":
                        await _check(client, method, f"{_path(path)}?{name}={text}")
                    elif value.isprintable() and value.isascii():
                        await _check(client, method, _path(path), headers={name: value})
            for body in BODIES if "requestBody" in declared else ():
                await _check(client, method, _path(path), data=body)
