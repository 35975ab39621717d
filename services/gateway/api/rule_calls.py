"""Rules, their events and webhooks by gRPC."""

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc

from services.common.admission import place_of_call
from services.common.places import Trusted
from services.gateway.api.callers import Callers
from services.gateway.auth.caller import Caller, Permission
from services.gateway.sessions.sessions import Sessions
from sightline.errors import UnavailableError
from sightline.reasons import Reason
from sightline.v1 import rules_pb2

if TYPE_CHECKING:
    from services.gateway.rules.rules import Rules

Context = grpc.aio.ServicerContext[Any, Any]


class RuleCalls:
    """That part of SightlineService. rules: None on a server without a Redis, which refuses."""

    def __init__(
        self, sessions: Sessions, callers: Callers, rules: "Rules | None", trusted: Trusted
    ) -> None:
        self._trusted = trusted
        self._of_sessions = sessions
        self._of_callers = callers
        self._kept_rules = rules

    async def CreateRule(
        self, request: rules_pb2.CreateRuleRequest, context: Context
    ) -> rules_pb2.Rule:
        caller = await self._by(context, Permission.WATCH, request.session)
        session = await self._of_sessions.locate(request.session, caller)
        return await self._asked().create(request.rule, session, caller)

    async def ListRules(
        self, request: rules_pb2.ListRulesRequest, context: Context
    ) -> rules_pb2.ListRulesResponse:
        caller = await self._by(context, Permission.VIEW, request.session)
        session = None
        if request.session:
            session = await self._of_sessions.locate(request.session, caller)
        return rules_pb2.ListRulesResponse(rules=await self._asked().listed(caller, session))

    async def GetRule(self, request: rules_pb2.GetRuleRequest, context: Context) -> rules_pb2.Rule:
        caller = await self._by(context, Permission.VIEW)
        return await self._asked().get(request.rule, caller)

    async def UpdateRule(
        self, request: rules_pb2.UpdateRuleRequest, context: Context
    ) -> rules_pb2.Rule:
        caller = await self._by(context, Permission.WATCH)
        return await self._asked().update(request, caller)

    async def DeleteRule(
        self, request: rules_pb2.DeleteRuleRequest, context: Context
    ) -> rules_pb2.DeleteRuleResponse:
        caller = await self._by(context, Permission.WATCH)
        await self._asked().delete(request.rule, caller)
        return rules_pb2.DeleteRuleResponse()

    async def ListEvents(
        self, request: rules_pb2.ListEventsRequest, context: Context
    ) -> rules_pb2.ListEventsResponse:
        caller = await self._by(context, Permission.VIEW, request.session)
        return await self._asked().events.listed(request, caller)

    async def WatchEvents(
        self, request: rules_pb2.WatchEventsRequest, context: Context
    ) -> AsyncIterator[rules_pb2.RuleEvent]:
        caller = await self._by(context, Permission.VIEW, request.session)
        following = await self._asked().events.follow(request, caller, self._place(context))
        async with contextlib.aclosing(following) as events:
            async for event in events:
                yield event

    async def GetEvent(
        self, request: rules_pb2.GetEventRequest, context: Context
    ) -> rules_pb2.GetEventResponse:
        caller = await self._by(context, Permission.VIEW)
        return await self._asked().events.get(request, caller)

    async def AcknowledgeEvent(
        self, request: rules_pb2.AcknowledgeEventRequest, context: Context
    ) -> rules_pb2.RuleEvent:
        caller = await self._by(context, Permission.WATCH)
        return await self._asked().events.acknowledge(request, caller)

    async def CreateWebhook(
        self, request: rules_pb2.CreateWebhookRequest, context: Context
    ) -> rules_pb2.Webhook:
        caller = await self._by(context, Permission.ADMIN)
        caller.check(Permission.ADMIN)
        return await self._asked().create_webhook(request.webhook, caller)

    async def ListWebhooks(
        self, request: rules_pb2.ListWebhooksRequest, context: Context
    ) -> rules_pb2.ListWebhooksResponse:
        caller = await self._by(context, Permission.ADMIN)
        return rules_pb2.ListWebhooksResponse(webhooks=await self._asked().webhooks.listed(caller))

    async def DeleteWebhook(
        self, request: rules_pb2.DeleteWebhookRequest, context: Context
    ) -> rules_pb2.DeleteWebhookResponse:
        caller = await self._by(context, Permission.ADMIN)
        await self._asked().webhooks.delete(request.webhook, caller)
        return rules_pb2.DeleteWebhookResponse()

    async def ListDeadLetters(
        self, request: rules_pb2.ListDeadLettersRequest, context: Context
    ) -> rules_pb2.ListDeadLettersResponse:
        caller = await self._by(context, Permission.ADMIN)
        letters = await self._asked().webhooks.dead_letters(request.webhook, caller)
        return rules_pb2.ListDeadLettersResponse(letters=letters)

    async def erase_events(self, name: str, caller: Caller) -> None:
        """Remove the events of a session that its caller is about to delete."""
        session = await self._of_sessions.locate(name, caller)
        caller.check(Permission.ADMIN, session)
        await self._asked().erase_events(session)

    async def _by(self, context: Context, permission: Permission, session: str = "") -> Caller:
        """Whoever calls, for something that takes a permission."""
        path = self._of_sessions.name_of(session)
        caller = await self._of_callers.of_call(context, permission, path=path)
        caller.check(permission)
        return caller

    def _place(self, context: Context) -> str:
        """Whose limits per address hold for a call."""
        return place_of_call(context, self._trusted)

    def _asked(self) -> "Rules":
        if self._kept_rules is None:
            raise not_configured()
        return self._kept_rules


def not_configured() -> UnavailableError:
    return UnavailableError(
        "this server keeps no rules: neither GATEWAY_RULES_REDIS_URL nor GATEWAY_REDIS_URL is set",
        reason=Reason.RULES_NOT_CONFIGURED,
    )
