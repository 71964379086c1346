"""The data path: carries packets of known flows over sessions and paths, which the core hands over as plain values.

The core decides, data paths execute: the way in this process is one, others may be processes of their own. Nothing
here leads back to a connection, a role or a portal. What a data path does not know it gives back to the core.
"""

from connectivity.data_path.data_path import Core, DataPath, Opened
from connectivity.data_path.peer import MAX_DATAGRAM_BYTES, Path, Peer

__all__ = ["MAX_DATAGRAM_BYTES", "Core", "DataPath", "Opened", "Path", "Peer"]
