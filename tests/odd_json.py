"""JSON that nobody meant: objects of a wire's own words in places where they do not belong."""

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st


def odd_objects(words: Sequence[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects whose names, and some of whose values, are of these words."""
    names = st.sampled_from(words)
    leaves = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        names,
        st.text(max_size=8),
    )
    values: st.SearchStrategy[Any] = st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
        max_leaves=12,
    )
    return st.dictionaries(names, values, max_size=6)
