"""The header `Retry-After`, as servers write it: seconds, or a date (RFC 9110, 10.2.3)."""

from email.utils import parsedate_to_datetime


def seconds_of(retry_after: str, now_s: float) -> float:
    """Seconds that a header `Retry-After` asks to wait; 0 where it says none that is meant. A part
    of a second, which some servers name, counts."""
    whole, _, part = retry_after.strip().partition(".")
    if whole.isascii() and whole.isdigit() and (not part or (part.isascii() and part.isdigit())):
        return float(f"{whole[:9]}.{part[:9]}")
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - now_s)
    except (ValueError, OverflowError):
        return 0.0
