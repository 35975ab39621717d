"""Settings of dialogue: where Redis is, without ever saying by which password."""

from pathlib import Path

import pytest

from services.common.config import ConfigError
from services.dialogue.config import DialogueConfig
from services.dialogue.store import RedisStore

URL = "redis://:open-sesame@redis:6379/0"


def test_a_password_is_in_no_text_of_the_configuration() -> None:
    config = DialogueConfig.from_env({"DIALOGUE_REDIS_URL": URL})
    assert config.redis_url == URL
    assert "open-sesame" not in f"{config} {config!r}"


@pytest.mark.parametrize(
    "url",
    [
        "http://:open-sesame@redis",
        "redis://:open-sesame@redis:port/0",
        "redis://redis:6379/0,http://:open-sesame@redis",
        "redis://:open-sesame@redis:6379/0,",
    ],
)
def test_a_bad_url_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match="DIALOGUE_REDIS_URL") as refused:
        RedisStore(DialogueConfig(redis_url=url))
    assert "open-sesame" not in str(refused.value)


def test_a_password_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = DialogueConfig(redis_url="redis://redis", redis_password_file=tmp_path / "absent")
    with pytest.raises(ConfigError, match=r"DIALOGUE_REDIS_PASSWORD_FILE=.*absent"):
        RedisStore(config)


def test_several_addresses_are_a_primary_and_its_replicas_or_sentinels() -> None:
    urls = "redis://one:6379/0, redis://:open-sesame@two:6379/0"
    config = DialogueConfig.from_env({"DIALOGUE_REDIS_URL": urls})
    assert config.redis_urls == ["redis://one:6379/0", "redis://:open-sesame@two:6379/0"]
    RedisStore(config)
    RedisStore(DialogueConfig(redis_url=urls, redis_sentinel="primary"))


def test_sentinels_have_hosts() -> None:
    config = DialogueConfig(redis_url="unix:///path/of/socket", redis_sentinel="primary")
    with pytest.raises(ConfigError, match="DIALOGUE_REDIS_URL"):
        RedisStore(config)
