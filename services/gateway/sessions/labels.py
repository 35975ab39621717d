"""Labels of sessions and rules: what programs note on them, and find them by."""

import re
from collections.abc import Mapping

from sightline.errors import InvalidArgumentError

MAX_LABELS = 16
MAX_VALUE_CHARACTERS = 128
_KEY = re.compile(r"[A-Za-z0-9_./-]{1,63}")


def checked_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """A copy. Raises InvalidArgumentError for labels that are too many, too long or misspelt."""
    if len(labels) > MAX_LABELS:
        raise InvalidArgumentError(f"there are at most {MAX_LABELS} labels")
    for key, value in labels.items():
        if not _KEY.fullmatch(key):
            raise InvalidArgumentError(
                "the key of a label has 1 to 63 characters of A-Z a-z 0-9 _ . / -"
            )
        if len(value) > MAX_VALUE_CHARACTERS or not value.isprintable():
            raise InvalidArgumentError(
                f"the value of a label has at most {MAX_VALUE_CHARACTERS} printable characters"
            )
    return dict(sorted(labels.items()))


def has_labels(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether these labels are among those."""
    return all(labels.get(key) == value for key, value in wanted.items())
