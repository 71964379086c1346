"""Drivers: the only modules of the library that touch sockets, devices, clocks and the event loop."""
