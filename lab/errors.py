"""What can go wrong in a lab, as one line that names the log to read."""

from connectivity.errors import FatalError


class LabError(FatalError):
    """The lab could not be built, a part of the stack failed, or a measurement did."""
