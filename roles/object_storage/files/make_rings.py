"""Make Swift's rings: which server holds what. Here one server each, on this host, holds everything.

Needs the folder to write them to as its argument.
"""

import sys
from pathlib import Path

from swift.common.ring import RingBuilder

PORTS = {"object": 6200, "container": 6201, "account": 6202}

for name, port in PORTS.items():
    builder = RingBuilder(part_power=6, replicas=1, min_part_hours=0)
    builder.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": port, "device": "disk", "weight": 1})
    builder.rebalance()
    builder.get_ring().save(str(Path(sys.argv[1], f"{name}.ring.gz")))
