"""Asks the part in this container whether it is ready: exit code 0 where HEALTH_URL answers 200.

For the HEALTHCHECK of the image, which has neither curl nor wget.
"""

import os
import sys
import urllib.error
import urllib.request

DEFAULT_URL = "http://127.0.0.1:8080/readyz"
TIMEOUT_S = 4


def main() -> int:
    """Return 0 or 1, with the reason on standard error: `docker inspect` shows it."""
    url = os.environ.get("HEALTH_URL") or DEFAULT_URL
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            return 0 if answer.status == 200 else 1
    except (urllib.error.URLError, OSError) as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
