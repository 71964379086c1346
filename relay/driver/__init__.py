"""Everything of the relay that touches the world: sockets, clocks, the portal, the kernel."""
