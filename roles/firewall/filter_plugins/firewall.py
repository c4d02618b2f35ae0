"""Filters that know IPv4 and IPv6 networks, by Python's standard library alone."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from typing import Any


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
    """Say whether rules let a client in.

    Args:
        rules: Mappings with `ports` and `sources`.
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
        if int(port) in map(int, rule["ports"])
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
            "firewall_wrong_sources": wrong_sources,
            "firewall_networks": networks,
            "firewall_admits": admits,
        }
