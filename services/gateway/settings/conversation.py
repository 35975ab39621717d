"""Settings of how a gateway speaks, hears and remembers."""

from dataclasses import dataclass
from zoneinfo import ZoneInfo

from services.common.ages import zone_of
from services.common.config import ConfigError, setting
from services.gateway.voice.turn_detector import TurnRules


@dataclass(frozen=True, kw_only=True)
class ConversationSettings:
    """The services that speak, hear and keep what was said, and how they are used."""

    tts: str | None = setting(
        None, "TTS service, host:port; empty: Speak is unavailable.", address=True
    )
    asr: str | None = setting(
        None, "ASR service, host:port; empty: questions are typed.", address=True
    )
    listen: bool = setting(
        False,
        "Hear what is said in every video, where there is an ASR service and its session is not "
        "told otherwise.",
    )
    transcript_s: float = setting(
        3600.0,
        "Seconds that is kept what was said in a session's video.",
        minimum=1,
        maximum=86400,
    )
    said_s: float = setting(
        60.0,
        "Seconds of what was said in a video that a question about it knows of.",
        minimum=0,
        maximum=3600,
    )
    speech_s: float = setting(
        0.3, "Seconds of speech that begin a spoken question.", minimum=0.1, maximum=5
    )
    silence_s: float = setting(
        0.5, "Seconds of silence that end a spoken question.", minimum=0.2, maximum=10
    )
    more_s: float = setting(
        1.5, "Seconds of silence that end one whose words ask for more.", minimum=0.2, maximum=30
    )
    answer_ahead: bool = setting(
        True,
        "Begin to answer a spoken question while its last silence runs. If more is said, that was "
        "in vain.",
    )
    dialogue: str | None = setting(
        None,
        "Dialogue service, host:port; empty: clients cannot read or delete conversations.",
        address=True,
    )
    memory: str = setting(
        "off",
        "What is kept of a session beyond its window, where it does not say itself: off; lines, "
        "which the model writes of every moment; pictures, small ones of each as well. Redis has "
        "it until the session is deleted; needs GATEWAY_DIALOGUE.",
        choices=("off", "lines", "pictures"),
    )
    memory_moment_s: float = setting(
        15.0,
        "Seconds of the longest moment that is remembered as one; a change of the picture ends it "
        "earlier.",
        minimum=5,
        maximum=300,
    )

    time_zone: str = setting(
        "UTC",
        "Time zone of the people who ask, by its name of the IANA, such as Europe/Berlin: of hours "
        "and days that questions name and answers say, of conversations as text, of tables of "
        "events, and of rules' schedules that name none.",
        filled=True,
    )

    def zone(self) -> ZoneInfo:
        """Time zone of the people who ask."""
        return zone_of(self.time_zone)

    def check_time_zone(self) -> None:
        """Raise ConfigError for a time zone that is none."""
        try:
            self.zone()
        except ValueError as error:
            raise ConfigError(f"GATEWAY_TIME_ZONE: {error}") from None

    def turn_rules(self) -> TurnRules:
        """When viewers have begun to speak, and when they have said what they wanted."""
        return TurnRules(speech_s=self.speech_s, silence_s=self.silence_s, more_s=self.more_s)
