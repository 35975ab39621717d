"""Ears of a gateway: one for each microphone, all with one recogniser."""

from collections.abc import Callable

from services.common.asr_client import AsrClient
from services.common.identity import Identity
from services.gateway.voice.activity import Activity, silero
from services.gateway.voice.ear import Ear, Recogniser
from services.gateway.voice.heard import Heard
from services.gateway.voice.loudspeaker import Loudspeaker
from services.gateway.voice.phrases import prompt_of
from services.gateway.voice.turn_detector import TurnRules
from sightline.errors import UnavailableError
from sightline.reasons import Reason
from sightline.v1 import gateway_pb2


class Ears:
    """Makes ears. `address` None: nobody is heard here."""

    def __init__(
        self, address: str | None, rules: TurnRules, identity: Identity | None = None
    ) -> None:
        """Raises ConfigError where what hearing needs is not installed."""
        self._rules = rules
        self.recogniser: AsrClient | None = None
        if address is not None:
            silero()
            self.recogniser = AsrClient(address, identity=identity)

    @property
    def configured(self) -> bool:
        return self.recogniser is not None

    def make(
        self,
        tell: Callable[[Heard], None],
        rules: TurnRules | None = None,
        language: str = "",
        card: Callable[[], gateway_pb2.ModelCard | None] = lambda: None,
        loudspeaker: Loudspeaker | None = None,
    ) -> Ear:
        """An ear for one microphone. rules: others than the gateway's. card: of the model that is
        talked with, whose words are likely. loudspeaker: see `Ear`. Raises UnavailableError where
        nobody is heard."""
        return Ear(
            self.hearing(),
            self.activity(),
            rules or self._rules,
            tell,
            language=language,
            prompt=lambda: prompt_of(card()),
            loudspeaker=loudspeaker,
        )

    def hearing(self) -> Recogniser:
        """Whoever knows the words. Raises UnavailableError where nobody is heard."""
        if self.recogniser is None:
            raise UnavailableError(
                "this server does not hear: questions are typed", reason=Reason.VOICE_NOT_CONFIGURED
            )
        return self.recogniser

    def activity(self) -> Activity:
        """Voice activity of one stream of audio."""
        return silero()

    async def aclose(self) -> None:
        if self.recogniser is not None:
            await self.recogniser.aclose()
