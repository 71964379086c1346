"""The compiled helper, if this machine has it."""

from connectivity import native
from connectivity.errors import chain


def optional_helper() -> native.Helper | None:
    """The helper; None, and a line that says why, where there is none."""
    try:
        return native.load()
    except native.NoHelper as error:
        print(f"Python only: {chain(error)}")
        return None
