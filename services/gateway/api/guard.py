"""The guard around every HTTP request: names, origins, errors, and what protects browsers."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from services.common.hosts import host_name, may_probe, netloc_of
from services.common.metrics import REFUSED
from services.common.problems import problem, problem_of
from services.gateway.api.completions.errors import PREFIX, refusal, refusal_of
from services.gateway.api.gemini import errors as gemini
from services.gateway.config import GatewayConfig
from sightline.errors import InternalError, PermissionDeniedError, SightlineError
from sightline.reasons import Reason

log = logging.getLogger(__name__)

PROBE = "/healthz"
METHODS = "GET, POST, PUT, DELETE, PATCH"
# Clients in browsers send some of their own (x-stainless-*), which the star lets through; of the
# one beside it, browsers want the name.
ALLOWED_HEADERS = "Authorization, *"
# What a page of another site may read: no request here comes with cookies, so the star is all.
EXPOSED_HEADERS = "*"
_CODE_OF_STATUS = {
    400: "INVALID_ARGUMENT",
    404: "NOT_FOUND",
    405: "INVALID_ARGUMENT",
    406: "INVALID_ARGUMENT",
    413: "INVALID_ARGUMENT",
    415: "INVALID_ARGUMENT",
    421: "PERMISSION_DENIED",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Guard:
    """The middleware of every route. It refuses other names than ours and other sites' pages,
    unless they are allowed, and turns errors into problems (see `services.common.problems`) under
    the HTTP status that fits the gRPC code.
    """

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._hosts = config.hosts()

    def add_to(self, app: web.Application) -> None:
        app.middlewares.append(self._guard)
        app.on_response_prepare.append(self._prepare)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin", "")
        allowed = origin in self._config.allowed_origins
        try:
            self._check_host(request)
            if origin and not allowed and not self._is_own(origin, request):
                REFUSED.labels("http", "origin").inc()
                raise PermissionDeniedError(
                    "this site may not use the API", reason=Reason.SITE_NOT_ALLOWED
                )
            if request.method == "OPTIONS" and allowed:
                response: web.StreamResponse = web.Response(status=204)
            else:
                response = await handler(request)
        except SightlineError as error:
            response = _refusal(request, error)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            code = _CODE_OF_STATUS.get(error.status, "UNKNOWN")
            message = _way_out(request, error)
            if gemini.speaks_so(request.path):
                response = gemini.refusal(error.status, message=message, code=code, reason=code)
            elif request.path.startswith(PREFIX):
                response = refusal(error.status, message=message, reason=code)
            else:
                response = problem(error.status, code=code, message=message)
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            resource = request.match_info.route.resource  # the path itself may hold a key
            where = resource.canonical if resource is not None else ""
            log.exception("unhandled error", extra={"resource": where})
            response = _refusal(request, InternalError("internal error"))
        return response

    async def _prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """Headers of every response, also of one that goes on, just before it begins."""
        self._add_headers(request, response)
        origin = request.headers.get("Origin", "")
        if origin in self._config.allowed_origins:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Allow-Methods"] = METHODS
            response.headers["Access-Control-Allow-Headers"] = ALLOWED_HEADERS
            response.headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
            response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"

    def _check_host(self, request: web.Request) -> None:
        """Raise HTTPMisdirectedRequest for a request that was meant for another name."""
        hosts = request.headers.getall("Host", [])
        host = hosts[0] if hosts else ""
        if len(hosts) == 1 and request.path == PROBE and may_probe(host):
            return
        local = request.transport.get_extra_info("sockname") if request.transport else None
        local_address = str(local[0]) if isinstance(local, tuple) else ""
        # Browsers always send one, so without it nobody can have been led here.
        if not hosts or (len(hosts) == 1 and self._hosts.allow(host, local_address)):
            return
        REFUSED.labels("http", "host").inc()
        log.warning(
            "host refused: if it is a name of this server, add it to GATEWAY_ALLOWED_HOSTS",
            extra={"host": host[:256]},
        )
        raise web.HTTPMisdirectedRequest(reason="this server does not go by that name")

    def _is_own(self, origin: str, request: web.Request) -> bool:
        """Whether a page of this gateway asks; behind a proxy that has its public address."""
        public = netloc_of(self._config.public_http_url or "")
        host = request.headers.get("Host", "").lower()
        return netloc_of(origin) in {host, public} - {""}

    def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Tell browsers to be careful with a response."""
        headers = response.headers
        headers.setdefault("X-Content-Type-Options", "nosniff")
        headers.setdefault("Referrer-Policy", "no-referrer")
        headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        headers.setdefault("Vary", "Origin")
        if request.path.startswith(("/api/", PREFIX)) or gemini.speaks_so(request.path):
            headers.setdefault("Cache-Control", "no-store")
        elif isinstance(response, web.FileResponse):
            headers["Cache-Control"] = "no-cache"
            # Some browsers do not count a WebSocket of the same host as 'self'.
            host = request.headers.get("Host", "")
            line = f" ws://{host} wss://{host}" if host_name(host) else ""
            framing = " ".join(self._config.allowed_origins) or "'none'"
            headers["Content-Security-Policy"] = (
                "default-src 'none'; script-src 'self'; style-src 'self'; "
                f"img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'{line}; "
                f"base-uri 'none'; form-action 'none'; frame-ancestors {framing}"
            )


def _refusal(request: web.Request, error: SightlineError) -> web.Response:
    """An error in the form that the clients of an address read."""
    if gemini.speaks_so(request.path):
        return gemini.refusal_of(error)
    return refusal_of(error) if request.path.startswith(PREFIX) else problem_of(error)


def _way_out(request: web.Request, error: web.HTTPException) -> str:
    """What to tell a client that asks for what is not here: what is."""
    if error.status == 405:
        allowed = error.headers.get("Allow", "").replace(",", ", ")
        return f"{request.method} is not for this address, which takes {allowed}"
    if error.status != 404 or not request.path.startswith(PREFIX):
        return error.reason
    names = {each.canonical for each in request.app.router.resources()}
    ours = sorted(name for name in names if name.startswith(PREFIX) and "{" not in name)
    return f"this address is not served here: {', '.join(ours)} are"
