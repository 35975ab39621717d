"""Pages that are generated are the ones that are committed, and tables are whole."""

import importlib.util
import re

from sightline.reasons import Reason
from tests.processes import REPOSITORY


def test_the_configuration_page_is_current() -> None:
    path = REPOSITORY / "docs" / "configuration.py"
    spec = importlib.util.spec_from_file_location("configuration_page", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PATH.read_text() == module.page(), "run `make docs`"


def test_the_table_of_reasons_is_whole_and_every_reason_is_given_somewhere() -> None:
    page = (REPOSITORY / "docs" / "sdk.md").read_text()
    assert re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE) == [each.value for each in Reason]
    code = "".join(path.read_text() for path in (REPOSITORY / "services").rglob("*.py"))
    assert {each for each in Reason if f"Reason.{each.name}" not in code} == set()
