"""Filters that know IPv4 and IPv6 networks, and ranges of ports, by Python's standard library alone."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Any

LAST_PORT = 65535


def wrong_ports(ports: object) -> list[str]:
    """Pick what is neither a port nor a range of ports.

    Args:
        ports: What should be a list of them.

    Returns:
        The wrong ones; all of it, if it is no list, for each digit of a text would be a port.
    """
    if not isinstance(ports, list):
        return [str(ports)]
    return [str(port) for port in ports if not is_span(str(port))]


def is_span(port: str) -> bool:
    """Say whether a text is a port or a range of ports.

    Args:
        port: Such as `22` or `9100-9110`.

    Returns:
        Whether it is, from the lower end to the higher one.
    """
    if not re.fullmatch("[0-9]{1,5}(-[0-9]{1,5})?", port):
        return False
    first, last = span(port)
    return 1 <= first <= last <= LAST_PORT


def span(port: int | str) -> tuple[int, int]:
    """Read a port or a range of ports.

    Args:
        port: Such as `22` or `9100-9110`.

    Returns:
        The first and the last port.
    """
    first, _, last = str(port).partition("-")
    return int(first), int(last or first)


def ports(wanted: Iterable[int | str]) -> list[str]:
    """Merge ports and ranges of ports that overlap.

    Args:
        wanted: Ports and ranges.

    Returns:
        Ports and ranges, in order: nftables refuses a set whose elements overlap.
    """
    merged: list[tuple[int, int]] = []
    for first, last in sorted(map(span, wanted)):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return [str(first) if first == last else f"{first}-{last}" for first, last in merged]


def wrong_sources(sources: object) -> list[str]:
    """Pick what is neither an address nor a network.

    Args:
        sources: What should be a list of them.

    Returns:
        The wrong ones; all of it, if it is no list. A network has no bits behind its prefix: `192.0.2.7/24` may mean
        the address or the network.
    """
    if not isinstance(sources, list):
        return [str(sources)]
    wrong = []
    for source in map(str, sources):
        try:
            ipaddress.ip_network(source)
        except ValueError:
            wrong.append(source)
    return wrong


def networks(sources: Iterable[str], version: int) -> list[str]:
    """Pick the addresses and networks of an IP version, without those that another one holds.

    Args:
        sources: Addresses and networks of both versions.
        version: 4 or 6.

    Returns:
        Networks, in order: nftables refuses a set whose elements overlap.
    """
    found = [network for network in map(ipaddress.ip_network, sources) if network.version == version]
    return [str(network) for network in ipaddress.collapse_addresses(found)]


def admits(rules: Iterable[dict[str, Any]], address: str, port: int | str) -> bool:
    """Say whether rules let a client in, over TCP.

    Args:
        rules: Mappings with `ports` and `sources`, and maybe a `protocol`.
        address: The client's, which may have a zone, such as `fe80::1%eth0`.
        port: The server's.

    Returns:
        Whether one of the rules does.
    """
    client = ipaddress.ip_address(address.partition("%")[0])
    client = getattr(client, "ipv4_mapped", None) or client
    return any(
        client in ipaddress.ip_network(source)
        for rule in rules
        if rule.get("protocol", "tcp") == "tcp"
        if any(first <= int(port) <= last for first, last in map(span, rule["ports"]))
        for source in rule["sources"]
    )


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable]:
        """Name the filters.

        Returns:
            The functions by name.
        """
        return {
            "firewall_wrong_ports": wrong_ports,
            "firewall_ports": ports,
            "firewall_wrong_sources": wrong_sources,
            "firewall_networks": networks,
            "firewall_admits": admits,
        }
