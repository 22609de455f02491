"""Watch one interface of the control host until the node's closing word arrives, and count what should not.

    capture.py INTERFACE FORBIDDEN CLOSING TIMEOUT_S

Prints {"forbidden": N, "closed": true}; exits with 1 when the closing word did not come in time, because then the
watch saw nothing at all and proves nothing.
"""

from __future__ import annotations

import json
import socket
import sys
import time

ETH_P_ALL = 0x0003


def main() -> int:
    interface, forbidden, closing, timeout = sys.argv[1], sys.argv[2].encode(), sys.argv[3].encode(), float(sys.argv[4])
    deadline = time.monotonic() + timeout
    seen = 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as watch:
        watch.bind((interface, ETH_P_ALL))
        while (left := deadline - time.monotonic()) > 0:
            watch.settimeout(left)
            try:
                frame = watch.recv(65535)
            except TimeoutError:
                break
            if closing in frame:
                sys.stdout.write(json.dumps({"forbidden": seen, "closed": True}) + "\n")
                return 0
            seen += forbidden in frame
    sys.stdout.write(json.dumps({"forbidden": seen, "closed": False}) + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
