"""File descriptors of this process: as many as it may have, and how many a port may take."""

import contextlib
import resource

MOST = 65_536  # an unlimited hard limit is no reason to reckon with a billion


def raise_limit() -> int:
    """Raise the soft limit to the hard one; the number of descriptors there may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return MOST if soft == resource.RLIM_INFINITY else min(soft, MOST)
