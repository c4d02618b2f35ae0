"""Tries TCP ports of an address, all unless it is told which, and prints those that let one in. Needs Python alone."""

import asyncio
import json
import socket
import sys


async def scan(address: str, wanted: list[int]) -> list[int]:
    """Connect to each port.

    Args:
        address: An IPv4 or IPv6 address.
        wanted: The ports.

    Returns:
        The open ones. What does not answer within 3 s is not.
    """
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    ports, found = iter(wanted), []

    async def work() -> None:
        for port in ports:
            with socket.socket(family) as client:
                client.setblocking(False)
                try:
                    await asyncio.wait_for(loop.sock_connect(client, (address, port)), 3)
                except OSError:
                    continue
                found.append(port)

    await asyncio.gather(*(work() for _ in range(1000)))
    return sorted(found)


print(json.dumps(asyncio.run(scan(sys.argv[1], list(map(int, sys.argv[2:])) or list(range(1, 65536))))))
