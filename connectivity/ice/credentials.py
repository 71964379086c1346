"""The user name fragment and password of one side of a connection (RFC 8445 §5.3).

Both pairs come from the portal and are opaque here. The fragment travels in USERNAME and in candidate text, the
password only keys MESSAGE-INTEGRITY: it is kept out of ``repr``.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class IceCredentials:
    """``username`` is the ufrag, ``password`` the pwd."""

    username: str
    password: str = field(repr=False)
