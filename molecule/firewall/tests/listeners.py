"""Listens on TCP ports of all addresses, IPv4's and IPv6's, and answers what comes to some of UDP's."""

import selectors
import socket
import sys

selector = selectors.DefaultSelector()
for port in map(int, sys.argv[1:]):
    selector.register(socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True), 1)
for port in (161, 9100, 9999, 60010):
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    udp.bind(("::", port))
    selector.register(udp, 1)
while True:
    for key, _ in selector.select():
        if key.fileobj.type == socket.SOCK_DGRAM:
            key.fileobj.sendto(b"heard", key.fileobj.recvfrom(100)[1])
        else:
            key.fileobj.accept()[0].close()
