"""A suite of which parts are killed and come back: answers go on, and say what they lack."""

import sightline
from tests.eventually import wait_until
from tests.integration.test_suite import pictures_until
from tests.suite import Suite, write_clip


def test_without_redis_answers_go_on_and_history_is_kept_for_later(mended: Suite) -> None:
    clip = write_clip(mended.media_root, seed=5, seconds=16)
    with sightline.connect(mended.address) as client:
        session = client.open(push=True, lossless=True)
        session.push(pictures_until(clip.path, 4.0))
        with session.conversation() as talk:
            before = talk.ask("What is in the scene?").result()
            assert before.degraded == ()
            mended.redis.kill()
            during = talk.ask("How many objects are there?").result()
            assert during.text
            assert "dialogue_unavailable" in during.degraded
            mended.redis.start()

            def recovered() -> bool:
                answer = talk.ask("What is in the scene?").result()
                return answer.degraded == () and answer.history_rounds >= 2

            wait_until(recovered, "history")


def test_without_tts_text_goes_on_and_says_so_once(mended: Suite) -> None:
    clip = write_clip(mended.media_root, seed=5, seconds=16)
    with sightline.connect(mended.address) as client:
        session = client.open(push=True, lossless=True)
        session.push(pictures_until(clip.path, 4.0))
        with session.conversation(speech=True) as talk:
            spoken = talk.ask("What is in the scene?")
            assert b"".join(audio.pcm for audio in spoken.audio())
            assert mended.tts is not None
            mended.tts.kill()
            silent = talk.ask("What is in the scene?")
            assert not list(silent.audio())
            result = silent.result()
            assert result.text
            assert result.degraded.count("speech_unavailable") == 1
            mended.tts.restart()

            def speaks() -> bool:
                return bool(list(talk.ask("What is in the scene?").audio()))

            wait_until(speaks, "speech")


def test_a_killed_dialogue_service_is_missed_by_nobody(mended: Suite) -> None:
    clip = write_clip(mended.media_root, seed=5, seconds=16)
    with sightline.connect(mended.address) as client:
        session = client.open(push=True, lossless=True)
        session.push(pictures_until(clip.path, 4.0))
        with session.conversation() as talk:
            talk.ask("What is in the scene?").result()
            mended.dialogue.kill()
            during = talk.ask("What is in the scene?").result()
            assert during.text
            assert "dialogue_unavailable" in during.degraded
            mended.dialogue.restart()
            wait_until(
                lambda: talk.ask("What is in the scene?").result().history_rounds >= 2, "history"
            )
