"""Sessions that HTTP requests name in their path."""

from aiohttp import web

from services.gateway.api.callers import Callers
from services.gateway.auth.caller import Caller, Permission
from services.gateway.sessions.remote_session import AnySession
from services.gateway.sessions.sessions import Sessions


async def session_in_path(
    request: web.Request, sessions: Sessions, callers: Callers, *permissions: Permission
) -> tuple[AnySession, Caller]:
    """The session in the path, wherever it is, and who wants to do these things to it: whether they
    may is for the caller of this to check. Raises what says why it is not there for them."""
    name = request.match_info["session"]
    path = sessions.name_of(name)
    caller = await callers.of_request(request, *permissions, path=path)
    return await sessions.locate(name, caller), caller


async def viewed_session(request: web.Request, sessions: Sessions, callers: Callers) -> AnySession:
    """The session in the path, which the caller may view. Raises what says why it is not there for
    this caller."""
    session, caller = await session_in_path(request, sessions, callers, Permission.VIEW)
    caller.check(Permission.VIEW, session)
    return session
