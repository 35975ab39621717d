"""Makes a key: `python -m services.gateway.auth --name alice --permissions view,ask >> keys.jsonl`.

The line for GATEWAY_AUTH_KEYS goes to standard output, the key itself, once, to standard error.
With `--jwt SECRET` it signs a token for GATEWAY_AUTH=jwt instead, which goes to standard output.
"""

import argparse
import sys
import time
from pathlib import Path

import jwt

from services.gateway.auth.caller import Permission, permissions_of
from services.gateway.auth.keys import new_key
from services.gateway.auth.tokens import read_secrets


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m services.gateway.auth", description=__doc__)
    parser.add_argument("--name", required=True, help="whose it is, as the audit log says it")
    every = ",".join(Permission)
    parser.add_argument("--permissions", required=True, metavar="LIST", help=f"of {every}")
    parser.add_argument(
        "--sessions",
        action="append",
        metavar="PATTERN",
        help="names of sessions, as lobby-*; again for more (all of them by default)",
    )
    parser.add_argument("--tenant", default="", help="whose sessions alone (of all by default)")
    parser.add_argument(
        "--jwt", type=Path, metavar="SECRET", help="sign a token with this file's first secret"
    )
    parser.add_argument(
        "--seconds", type=int, default=600, help="how long the token holds (600 by default)"
    )
    options = parser.parse_args()
    permissions = options.permissions.split(",")
    if options.jwt is not None:
        try:
            print(_token(options, permissions))
        except (OSError, ValueError) as error:
            parser.error(str(error))
        return 0
    try:
        key, line = new_key(options.name, permissions, options.sessions or ("*",), options.tenant)
    except ValueError as error:
        parser.error(str(error))
    print(line)
    print(key, file=sys.stderr)
    return 0


def _token(options: argparse.Namespace, permissions: list[str]) -> str:
    """Raises OSError and ValueError for a file that holds no secret, and for other permissions."""
    claims = {
        "sub": options.name,
        "exp": int(time.time()) + options.seconds,
        "permissions": sorted(permissions_of(permissions)),
        "sessions": list(options.sessions or ("*",)),
        "tenant": options.tenant,
    }
    return jwt.encode(claims, read_secrets(options.jwt)[0], "HS256")


if __name__ == "__main__":
    sys.exit(main())
