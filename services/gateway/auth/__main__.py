"""Makes a key: `python -m services.gateway.auth --name alice --permissions view,ask >> keys.jsonl`.

The line for GATEWAY_AUTH_KEYS goes to standard output, the key itself, once, to standard error.
"""

import argparse
import sys

from services.gateway.auth.caller import Permission
from services.gateway.auth.keys import new_key


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
    options = parser.parse_args()
    permissions = options.permissions.split(",")
    try:
        key, line = new_key(options.name, permissions, options.sessions or ("*",), options.tenant)
    except ValueError as error:
        parser.error(str(error))
    print(line)
    print(key, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
