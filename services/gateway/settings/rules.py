"""Settings of standing rules, and of where their events go."""

from dataclasses import dataclass

from services.common.config import setting
from services.gateway.settings.sources import check_rules


@dataclass(frozen=True, kw_only=True)
class RuleSettings:
    """How many rules and events are kept, and which webhooks and broker are told."""

    session_rules: int = setting(64, "Standing rules of one session.", minimum=1)
    tenant_rules: int = setting(1000, "Standing rules of one tenant.", minimum=1)
    events: int = setting(
        10_000, "Events of rules that are kept of one tenant.", minimum=1, maximum=1_000_000
    )
    events_s: float = setting(
        30 * 86400.0, "Seconds that they are kept.", minimum=60, maximum=10 * 366 * 86400
    )
    event_pictures: int = setting(
        500, "Pictures of events that are kept of one tenant; 0: none.", minimum=0, maximum=100_000
    )
    event_pictures_s: float = setting(
        7 * 86400.0,
        "Seconds that pictures of events, and their seconds before and after, are kept.",
        minimum=60,
        maximum=10 * 366 * 86400,
    )
    event_clips: int = setting(
        20,
        "Events of one tenant whose seconds before and after are kept, where the server records "
        "(GATEWAY_RECORDING_S); 0: none.",
        minimum=0,
        maximum=10_000,
    )
    event_clip_s: float = setting(
        5.0, "Seconds before an event, and after it, that are kept.", minimum=1, maximum=60
    )
    webhooks: int = setting(100, "Webhooks, over all tenants.", minimum=0, maximum=10_000)
    webhook_allow: tuple[str, ...] = setting(
        (),
        "Where webhooks may lead besides the public internet, as of GATEWAY_URL_ALLOW; http:// "
        "leads nowhere else.",
    )
    webhook_retry_s: float = setting(
        86400.0,
        "Age of an event, in seconds, from which a webhook that does not take it is sent the next.",
        minimum=1,
        maximum=30 * 86400,
    )
    mqtt_url: str | None = setting(
        None,
        "MQTT broker that events of rules are published to, mqtt://user:password@host:1883, or "
        "mqtts:// for TLS.",
        secret=True,
    )
    mqtt_topic: str = setting("sightline", "What its topics begin with.")
    mqtt_discovery: str = setting(
        "homeassistant",
        "Prefix under which Home Assistant is told of rules as entities; empty: it is not.",
    )

    def check_webhooks(self) -> None:
        """Raise ConfigError for a rule of GATEWAY_WEBHOOK_ALLOW that is none."""
        check_rules("GATEWAY_WEBHOOK_ALLOW", self.webhook_allow)
