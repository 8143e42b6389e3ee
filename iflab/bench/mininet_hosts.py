"""Mininet: so many hosts on one Linux bridge. Prints seconds up and seconds down.

Run by the interpreter that Debian's Mininet is installed for, in namespaces of
its own, so that nothing of it is seen outside.
"""

import sys
import time

from mininet.net import Mininet
from mininet.nodelib import LinuxBridge
from mininet.topo import SingleSwitchTopo


def main() -> None:
    """Build, start and stop it."""
    began = time.perf_counter()
    net = Mininet(topo=SingleSwitchTopo(k=int(sys.argv[1])), switch=LinuxBridge, controller=None)
    net.start()
    up = time.perf_counter() - began
    began = time.perf_counter()
    net.stop()
    print(up, time.perf_counter() - began)


if __name__ == "__main__":
    main()
