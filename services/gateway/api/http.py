"""The HTTP interface: sessions as JSON, preview pictures and the page.

Messages are the contract's, as protobuf JSON with the proto's field names. `guard` stands before
every request, `websocket` carries conversations.
"""

from pathlib import Path
from typing import Any

from aiohttp import web

from services.common import checks
from services.common.progress import percent_of, words_of
from services.gateway.api.addresses import Addresses
from services.gateway.api.guard import Guard
from services.gateway.api.knowledge import knowledge_of
from services.gateway.api.messages import as_json, read_body
from services.gateway.api.websocket import WebSocketApi
from services.gateway.config import GatewayConfig
from services.gateway.sessions.session import Session
from services.gateway.sessions.sessions import Sessions
from services.gateway.sources.whip.ice import ice_server
from services.gateway.viewers.viewers import Viewers
from services.gateway.workers.workers import Workers
from sightline.errors import InvalidArgumentError, NotFoundError
from sightline.v1 import gateway_pb2, inference_pb2
from sightline.version import __version__

PAGE = Path(__file__).parent / "page"
PREVIEW_WIDTHS = (64, 1280)  # pixels


class HttpApi:
    """Routes on the service's HTTP application."""

    def __init__(
        self,
        config: GatewayConfig,
        sessions: Sessions,
        viewers: Viewers,
        workers: Workers,
        *,
        addresses: Addresses,
        speech: bool,
    ) -> None:
        self._config = config
        self._sessions = sessions
        self._workers = workers
        self._addresses = addresses
        self._speech = speech
        self._guard = Guard(config)
        self._websocket = WebSocketApi(config, sessions, viewers)
        self._files = {file.name: file for file in PAGE.iterdir() if file.is_file()}

    def add_to(self, app: web.Application) -> None:
        """Before the application starts; other routes must have been added before the page's."""
        self._guard.add_to(app)
        self._websocket.add_to(app)
        one = "/api/sessions/{session}"
        app.router.add_get("/api/info", self._info)
        app.router.add_get("/api/sessions", self._list)
        app.router.add_post("/api/sessions", self._create)
        app.router.add_get(one, self._get)
        app.router.add_delete(one, self._delete)
        app.router.add_get(one + "/preview.jpg", self._preview)
        app.router.add_get("/api/{path:.*}", self._nothing)
        app.router.add_get("/", self._page)
        app.router.add_get("/{file}", self._page)

    # --- sessions ---------------------------------------------------------------------------

    async def _info(self, request: web.Request) -> web.Response:
        described = self._workers.descriptions()
        loading = self._workers.loading()
        model = as_json(described[0][1]) if described else {}
        return web.json_response(
            {
                "version": __version__,
                "model": model,
                "loading": _loading(loading[0]) if loading and not described else None,
                "knows": knowledge_of(described[0][1].model) if described else {},
                "workers": [as_json(description) for _, description in described],
                "speech": self._speech,
                "grpc_port": self._addresses.grpc_port,
                "rtmp_url": self._addresses.rtmp,
                "whip_url": f"{self._addresses.http}/whip",
                "ice_servers": [ice_server(url) for url in self._config.ice_servers],
                "limits": {
                    "sessions": self._config.max_sessions,
                    "viewers_per_session": self._config.max_lines,
                    "questions_in_flight": self._config.max_questions,
                    "watches": self._config.max_watches,
                    "question_bytes": checks.MAX_QUESTION_BYTES,
                },
            }
        )

    async def _list(self, request: web.Request) -> web.Response:
        sessions = [session.message() for session in self._sessions.all()]
        return web.json_response(as_json(gateway_pb2.ListSessionsResponse(sessions=sessions)))

    async def _create(self, request: web.Request) -> web.Response:
        wanted = await read_body(request, gateway_pb2.CreateSessionRequest())
        session = await self._sessions.create(wanted)
        return web.json_response(as_json(self._addresses.with_keys(session)), status=201)

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response(as_json(self._session(request).message()))

    async def _delete(self, request: web.Request) -> web.Response:
        self._sessions.delete(self._session(request), "requested")
        return web.Response(status=204)

    async def _preview(self, request: web.Request) -> web.Response:
        text = request.query.get("width", "640")
        if not text.isdecimal() or len(text) > 5:
            raise InvalidArgumentError("width is a number of pixels")
        least, most = PREVIEW_WIDTHS
        jpeg = await self._session(request).sampler.preview(min(most, max(least, int(text))))
        if jpeg is None:
            return web.Response(status=204)
        return web.Response(body=jpeg, content_type="image/jpeg")

    def _session(self, request: web.Request) -> Session:
        return self._sessions.find(request.match_info["session"])

    async def _nothing(self, request: web.Request) -> web.StreamResponse:
        raise NotFoundError("the API has nothing here")

    async def _page(self, request: web.Request) -> web.FileResponse:
        """One of the page's files, which are all there is: no path is made of what was asked."""
        file = self._files.get(request.match_info.get("file", "index.html"))
        if file is None:
            raise NotFoundError("nothing is here")
        return web.FileResponse(file)


def _loading(description: inference_pb2.ModelDescription) -> dict[str, Any]:
    """How far a model is that is not ready: in numbers, and in words."""
    numbers = as_json(description.loading)
    percent = percent_of(description.loading)
    text = words_of(description)
    return {"model": description.model, "percent": percent, "text": text, **numbers}
