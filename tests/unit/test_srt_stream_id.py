"""Stream ids of SRT: where encoders put the key."""

import pytest

from services.gateway.sources.srt.stream_id import key_of


@pytest.mark.parametrize(
    "text",
    [
        "KEY",
        "live/KEY",
        "publish:KEY",
        "publish:live/KEY",
        "publish:kitchen?key=KEY",
        "kitchen?key=KEY",
        "publish:kitchen:somebody:KEY",
        "#!::m=publish,r=KEY",
        "#!::r=live/KEY",
        "#!::m=publish,r=kitchen,s=KEY",
        "#!::h=host,u=me,r=kitchen,m=publish,s=KEY",
    ],
)
def test_the_key_is_found(text: str) -> None:
    assert key_of(text) == "KEY"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "read:KEY",
        "request:KEY",
        "#!::m=request,r=KEY",
        "#!::",
        "publish:",
        "#!::m=publish",
        "/",
    ],
)
def test_there_is_none(text: str) -> None:
    assert key_of(text) == ""
