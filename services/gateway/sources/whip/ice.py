"""STUN and TURN servers, as their URLs are configured."""


def parse_ice_server(url: str) -> dict[str, str]:
    """stun:host:port or turn:user:password@host:port as RTCPeerConnection takes it, in a browser
    as in aiortc."""
    scheme, _, rest = url.partition(":")
    credentials, at, host = rest.rpartition("@")
    if not at:
        return {"urls": url}
    user, _, password = credentials.partition(":")
    return {"urls": f"{scheme}:{host}", "username": user, "credential": password}
