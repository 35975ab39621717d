"""Voices of a shop: what a viewer says, and answers aloud, by the server's own ears and mouth."""

import io
import wave
from collections import OrderedDict

import aiohttp

import sightline.aio
from sightline.errors import SightlineError, UnavailableError

MAX_ANSWERS = 256  # that may still be listened to
MAX_PROMPT = 240  # characters of names that are likely to be said


class Voices:
    """Ears and mouth of the server. names: of what people may ask about."""

    def __init__(self, client: sightline.aio.Client, http: str, names: list[str]) -> None:
        self._client = client
        self._http = http
        self._likely = ", ".join(names)[:MAX_PROMPT].rpartition(",")[0]
        self._answers: OrderedDict[str, str] = OrderedDict()

    async def hears(self) -> bool:
        """Whether the server knows what is said."""
        try:
            async with (
                aiohttp.ClientSession() as client,
                client.get(f"{self._http}/api/info") as reply,
            ):
                return reply.ok and (await reply.json()).get("voice") is True
        except (aiohttp.ClientError, ValueError):
            return False

    async def words(self, recording: bytes) -> str:
        """What is said in a recording. Raises UnavailableError."""
        form = aiohttp.FormData({"prompt": self._likely})
        form.add_field("file", recording, filename="said.wav", content_type="audio/wav")
        try:
            async with (
                aiohttp.ClientSession() as client,
                client.post(f"{self._http}/v1/audio/transcriptions", data=form) as reply,
            ):
                if not reply.ok:
                    raise UnavailableError("The server did not understand that.")
                return str((await reply.json())["text"]).strip()
        except aiohttp.ClientError:
            raise UnavailableError("The server does not hear now.") from None

    def keep(self, turn: str, answer: str) -> None:
        """This answer may be listened to."""
        self._answers[turn] = answer
        while len(self._answers) > MAX_ANSWERS:
            self._answers.popitem(last=False)

    async def aloud(self, turn: str) -> bytes | None:
        """An answer as a WAV file; None where it is forgotten, or nobody speaks here."""
        if (text := self._answers.get(turn)) is None:
            return None
        file = io.BytesIO()
        try:
            pieces = [piece async for piece in self._client.speak(text)]
        except SightlineError:
            return None
        if not pieces:
            return None
        with wave.open(file, "wb") as written:
            written.setparams((1, 2, pieces[0].sample_rate, 0, "NONE", ""))
            written.writeframes(b"".join(piece.pcm for piece in pieces))
        return file.getvalue()
