"""How tests are dealt out to processes: a file stays in one, so that what its tests share is made
once, and so do all tests of the shared suite or the shared browser, wherever they stand.
"""

import pytest
from xdist.scheduler import LoadGroupScheduling

SHARED = "suite"
SHARED_FIXTURES = {SHARED, "driver"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not SHARED_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group(SHARED))


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadGroupScheduling | None:
    return _ByFile(config, log) if config.getoption("dist") == "loadgroup" else None


class _ByFile(LoadGroupScheduling):
    def _split_scope(self, nodeid: str) -> str:
        """Name of the group, or the file."""
        return str(super()._split_scope(nodeid)).split("::")[0]
