"""Pages that are generated are the ones that are committed."""

import importlib.util

from tests.processes import REPOSITORY


def test_the_configuration_page_is_current() -> None:
    path = REPOSITORY / "docs" / "configuration.py"
    spec = importlib.util.spec_from_file_location("configuration_page", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PATH.read_text() == module.page(), "run `make docs`"
