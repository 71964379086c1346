"""The relay's offload: an XDP program that forwards channel data, and the typed view of its maps.

Importing this needs neither bcc nor privileges; making a ``RelayOffload`` does.
"""

from ebpf.counters import Counters, FlowCounters
from ebpf.doctor import explain
from ebpf.host import find_interfaces
from ebpf.layout import MAX_LISTEN_PORTS, Counter
from ebpf.offload import RelayOffload, View
from ebpf.outcomes import Direction, Outcome
from ebpf.settings import ChannelFlow, OffloadError, OffloadSettings

__all__ = [
    "MAX_LISTEN_PORTS",
    "ChannelFlow",
    "Counter",
    "Counters",
    "Direction",
    "FlowCounters",
    "OffloadError",
    "OffloadSettings",
    "Outcome",
    "RelayOffload",
    "View",
    "explain",
    "find_interfaces",
]
