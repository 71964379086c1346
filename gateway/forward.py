"""The setting of what the host forwards. Apart from who carries it out, for settings are read before all else."""

from enum import StrEnum


class Forward(StrEnum):
    """What the host forwards besides the tunnel's traffic."""

    TUNNEL = "tunnel"  # nothing
    HOST = "host"  # what it forwards without us
