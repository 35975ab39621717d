"""A real browser, and a wire to the gateway that can be cut."""

from collections.abc import Callable, Iterator

import pytest

from services.local.clip import Clip
from tests import tools
from tests.e2e.browser import Driver, Page
from tests.e2e.wire import Wire
from tests.suite import Suite, write_clip


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    tools.require("chromium", "chromedriver")
    running = Driver(tmp_path_factory.mktemp("browser"))
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def clip(suite: Suite) -> Clip:
    """An eight-second clip: what is watched for comes soon."""
    return write_clip(suite.media_root, seed=3, seconds=8)


@pytest.fixture
def open_page(driver: Driver, suite: Suite) -> Iterator[Callable[..., Page]]:
    """`open_page()`: a new tab on the shared suite's page.

    At the end of the test its console must be free of warnings and errors, but for those that
    contain one of `expected`; and the sessions of the test are removed.
    """
    opened: list[tuple[Page, tuple[str, ...]]] = []

    def make(url: str = "", *, expected: tuple[str, ...] = ()) -> Page:
        page = driver.page()
        opened.append((page, expected))
        page.goto(url or suite.url)
        return page

    yield make
    complaints = []
    for page, expected in opened:
        complaints += [
            line for line in page.console() if not any(part in line for part in expected)
        ]
        page.close()
    suite.delete_sessions()
    assert not complaints, "\n".join(complaints)


@pytest.fixture
def wire(suite: Suite) -> Iterator[Wire]:
    """The shared suite's HTTP port, behind a wire that can be cut."""
    with Wire(suite.gateway.http_port) as laid:
        yield laid
