"""Why a call was refused, in words that programs compare: `error.reason`.

They are part of the contract: a reason may be added, none changes its meaning. An error that none
of these names has the name of its gRPC code as its reason.
"""

from enum import StrEnum

__all__ = ["DOMAIN", "Reason"]

DOMAIN = "sightline"  # of google.rpc.ErrorInfo


class Reason(StrEnum):
    """Reasons by what a caller can do about them."""

    # The request names what is not there, or not its own
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND"
    SESSION_NAME_AMBIGUOUS = "SESSION_NAME_AMBIGUOUS"  # an id would not be
    CONVERSATION_NOT_FOUND = "CONVERSATION_NOT_FOUND"
    TURN_NOT_FOUND = "TURN_NOT_FOUND"
    RULE_NOT_FOUND = "RULE_NOT_FOUND"
    EVENT_NOT_FOUND = "EVENT_NOT_FOUND"  # it never was, or is not kept any more
    WEBHOOK_NOT_FOUND = "WEBHOOK_NOT_FOUND"
    HANDLE_NOT_FOUND = "HANDLE_NOT_FOUND"  # of a viewer's line, on this gateway
    WRONG_KEY = "WRONG_KEY"
    KEY_TAKEN = "KEY_TAKEN"
    NAME_TAKEN = "NAME_TAKEN"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"  # it made another session
    TURN_REUSED = "TURN_REUSED"  # it asked another question
    SOURCE_UNREADABLE = "SOURCE_UNREADABLE"
    SITE_NOT_ALLOWED = "SITE_NOT_ALLOWED"
    FORMAT_NOT_MET = "FORMAT_NOT_MET"  # by the model's answer
    TOOLS_UNSUPPORTED = "TOOLS_UNSUPPORTED"  # by the session's model
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"  # no worker has this model, and no pool this name

    # Who calls
    TOKEN_MISSING = "TOKEN_MISSING"
    TOKEN_INVALID = "TOKEN_INVALID"
    TOKEN_EXPIRED = "TOKEN_EXPIRED"
    NOT_PERMITTED = "NOT_PERMITTED"  # to this caller
    SIGN_IN_AWAY = "SIGN_IN_AWAY"  # nobody can tell whether a token is valid

    # The order of things
    OUT_OF_ORDER = "OUT_OF_ORDER"  # a message before the one it needs
    NO_FRAME_YET = "NO_FRAME_YET"
    PUBLISHER_PRESENT = "PUBLISHER_PRESENT"
    PUBLISHER_IDLE = "PUBLISHER_IDLE"  # it pushed no picture for long: it may begin again
    NOT_A_PUSH_SESSION = "NOT_A_PUSH_SESSION"
    NOT_LISTENING = "NOT_LISTENING"  # to what is said in the session's video
    NOT_CHANGEABLE = "NOT_CHANGEABLE"  # by this worker, while the session runs
    NOT_OWNER = "NOT_OWNER"  # another gateway has the session now; only gateways are told

    # There is no room
    TOO_MANY_SESSIONS = "TOO_MANY_SESSIONS"
    MODEL_FULL = "MODEL_FULL"
    TOO_MANY_VIEWERS = "TOO_MANY_VIEWERS"
    TOO_MANY_QUESTIONS = "TOO_MANY_QUESTIONS"
    TOO_MANY_WATCHES = "TOO_MANY_WATCHES"
    TOO_MANY_CALLS = "TOO_MANY_CALLS"
    TOO_MANY_RULES = "TOO_MANY_RULES"
    TOO_MANY_WEBHOOKS = "TOO_MANY_WEBHOOKS"

    # Somebody is away
    DRAINING = "DRAINING"  # this server ends; another may answer
    SESSION_MOVED = "SESSION_MOVED"  # to another gateway: publish again
    MEMORY_AWAY = "MEMORY_AWAY"  # what is remembered of sessions cannot be read
    SESSIONS_AWAY = "SESSIONS_AWAY"  # those of other gateways cannot be looked up
    MODEL_LOADING = "MODEL_LOADING"
    MODEL_AWAY = "MODEL_AWAY"
    VERSION_MISMATCH = "VERSION_MISMATCH"  # the worker speaks another protocol
    SPEECH_NOT_CONFIGURED = "SPEECH_NOT_CONFIGURED"
    VOICE_NOT_CONFIGURED = "VOICE_NOT_CONFIGURED"
    CONVERSATIONS_NOT_CONFIGURED = "CONVERSATIONS_NOT_CONFIGURED"
    CONVERSATIONS_AWAY = "CONVERSATIONS_AWAY"
    RULES_NOT_CONFIGURED = "RULES_NOT_CONFIGURED"  # this server has no Redis
    RULES_AWAY = "RULES_AWAY"
