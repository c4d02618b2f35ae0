"""Listens on TCP ports of all addresses, IPv4's and IPv6's, and answers what comes to UDP port 9999."""

import selectors
import socket
import sys

selector = selectors.DefaultSelector()
for port in map(int, sys.argv[1:]):
    selector.register(socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True), 1)
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
udp.bind(("::", 9999))
selector.register(udp, 1)
while True:
    for key, _ in selector.select():
        if key.fileobj is udp:
            udp.sendto(b"heard", udp.recvfrom(100)[1])
        else:
            key.fileobj.accept()[0].close()
