"""Sessions that HTTP requests look at."""

from aiohttp import web

from services.gateway.api.callers import Callers
from services.gateway.auth.caller import Permission
from services.gateway.sessions.remote_session import AnySession
from services.gateway.sessions.sessions import Sessions


async def viewed_session(request: web.Request, sessions: Sessions, callers: Callers) -> AnySession:
    """The session in the path, wherever it is, which the caller may view. Raises what says why it
    is not there for this caller."""
    name = request.match_info["session"]
    path = sessions.name_of(name)
    caller = await callers.of_request(request, Permission.VIEW, path=path)
    session = await sessions.locate(name, caller)
    caller.check(Permission.VIEW, session)
    return session
