"""How much one user, one source and all together may take."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quotas:
    """None is without a limit. Bandwidths are bits per second, for each direction on its own."""

    allocations_per_user: int | None = None
    allocations: int | None = None
    bandwidth_per_user: int | None = None
    bandwidth: int | None = None
    requests_per_second_per_source: int | None = None
