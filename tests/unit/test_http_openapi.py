"""The OpenAPI document: all that is served is in it, and all of it can be looked up."""

import json
import re
from typing import Any

from aiohttp import web
from google.protobuf import json_format

from services.gateway.api.openapi import document
from services.gateway.api.operations import operation
from sightline.v1 import gateway_pb2 as pb
from tests.unit.http_parts import served

NOT_DESCRIBED = {"/api/sessions/{session}/converse", "/api/{path}", "/", "/{file}"}


def _references(value: Any) -> set[str]:
    return set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(value)))


async def test_all_that_is_served_is_described_and_can_be_looked_up() -> None:
    async with served() as (_, client):
        reply = await client.get("/openapi.json")
        api = await reply.json()
        assert client.app is not None
        routes = {
            (route.method.lower(), route.resource.canonical)
            for route in client.app.router.routes()
            if route.resource is not None and route.method != "HEAD"
        }
    served_paths = {route for route in routes if route[1] not in NOT_DESCRIBED}
    described = {(method, path) for path, each in api["paths"].items() for method in each}
    assert served_paths == described
    assert _references(api) <= set(api["components"]["schemas"])
    names = [each["operationId"] for path in api["paths"].values() for each in path.values()]
    assert len(set(names)) == len(names) > 15


async def test_the_page_for_people_is_served_with_what_it_needs() -> None:
    async with served() as (_, client):
        page = await client.get("/docs")
        assert page.content_type == "text/html"
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        for name in re.findall(r'(?:src|href)="(docs\.\w+|openapi\.json)"', await page.text()):
            assert (await client.get(f"/{name}")).status == 200


def test_a_schema_says_how_protobuf_json_is_written() -> None:
    class Api:
        @operation("GET", "/x/{name}", "x", "X", gives=pb.Session)
        async def x(self, request: web.Request) -> web.Response:
            raise NotImplementedError

    declared = vars(Api)["x"].__operation__
    api = document([declared], sign_in="token")
    fields = api["components"]["schemas"]["Session"]["properties"]
    whole = json_format.MessageToDict(
        pb.Session(), preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    assert set(whole) < set(fields)
    assert fields["created_ns"]["type"] == "string"
    assert fields["window"] == {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
    assert fields["labels"]["additionalProperties"] == {"type": "string"}
    assert "SESSION_STATE_LIVE" in fields["state"]["enum"]
    assert fields["stats"]["$ref"] == "#/components/schemas/SessionStats"
    [parameter] = api["paths"]["/x/{name}"]["get"]["parameters"]
    assert (parameter["name"], parameter["in"]) == ("name", "path")
    assert api["security"] == [{"token": []}]
