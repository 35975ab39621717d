"""Wiring of the suite: which of its variables tells a service where the others are."""

PREFIXES = {  # of a service's variables
    "gateway": "GATEWAY_",
    "inference_worker": "WORKER_",
    "dialogue": "DIALOGUE_",
    "tts": "TTS_",
    "asr": "ASR_",
}


def worker_peers(*, dialogue: str, tts: str = "") -> dict[str, str]:
    """Variables of a worker whose peers are at these gRPC addresses; "": there is none."""
    return _named("inference_worker", DIALOGUE=dialogue, TTS=tts)


def gateway_peers(
    *, workers: list[str], dialogue: str, tts: str = "", asr: str = ""
) -> dict[str, str]:
    """Variables of a gateway whose peers are at these gRPC addresses; "": there is none."""
    return _named("gateway", WORKERS=",".join(workers), DIALOGUE=dialogue, TTS=tts, ASR=asr)


def _named(service: str, **addresses: str) -> dict[str, str]:
    return {PREFIXES[service] + peer: at for peer, at in addresses.items() if at}
