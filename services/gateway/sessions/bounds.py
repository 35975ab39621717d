"""Bounds of one session's pictures, as the gateway's settings have them."""

from services.gateway.config import GatewayConfig
from services.gateway.frames.picture_health import HealthLimits
from services.gateway.sources.source import DecodeBudget


def decode_budget(config: GatewayConfig) -> DecodeBudget:
    """What its decoder may take."""
    return DecodeBudget(
        decoder_bytes=config.decoder_bytes,
        picture_s=config.picture_s,
        threads=config.decode_threads,
        device=config.hwaccel,
    )


def health_limits(config: GatewayConfig, *, repeats: bool) -> HealthLimits:
    """What is still a good picture. repeats: the source begins again on purpose."""
    return HealthLimits(
        dark_level=config.dark_level,
        dark_s=config.dark_s,
        covered_level=config.covered_level,
        covered_s=config.covered_s,
        frozen_s=0.0 if repeats else config.frozen_s,  # a photograph is, too
        repeating_s=0.0 if repeats else config.repeating_s,
    )
