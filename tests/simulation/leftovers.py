"""What a core still holds when everybody has left: a container that is full then grows with each who comes."""

from collections import deque
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Final

from connectivity.clock import SECOND
from tests.simulation.world import World

LONGEST_LOSS: Final = 110 * SECOND  # until an idle connection is noticed to be lost
LONGEST_ALLOCATION: Final = 610 * SECOND  # nobody asks for more than ten minutes
MOST: Final = 64
#: As large from the start, however many come: tables of ports and of nonces.
FIXED: Final = ("_ports._index", "nonces.rows")
#: Memories with a bound of their own: verdicts on peers (``relay.core.peers``), and channels of an allocation, which
#: outlive their peers until their numbers are used again (``connectivity.turn.channels``).
MEMORIES: Final = {"policy._verdicts": 4096, "_channels._channels": 4096, "_channels._by_peer": 4096}
_PLAIN: Final = (str, bytes, int, float, type(None), type, memoryview, ModuleType, FunctionType, BuiltinFunctionType)


def leave(world: World) -> None:
    """Everybody leaves; what peers and relays hold for them ends with it, or in its time."""
    world.disturbed()
    for client in world.clients:
        world.stop(client)
    world.advance(LONGEST_LOSS)
    for name, machine in world.tunnellers.items():
        assert machine.core is None or not machine.core.connections(), f"{name} holds connections of nobody"
        _check(name, machine.core)
        world.stop(name)
    _check("the portal", world.portal.core)
    world.portal.stop()
    world.advance(LONGEST_ALLOCATION)
    for name, relay in world.relays.items():
        assert relay.core is not None, "relays have not ended"
        assert relay.core.allocation_count == 0, f"{name} holds allocations of nobody"
        _check(name, relay.core)


def _check(name: str, core: object) -> None:
    """Fail where a core holds much of something."""
    for path, size in _containers(core):
        most = next((bound for memory, bound in MEMORIES.items() if path.endswith(memory)), MOST)
        assert size <= most or path.endswith(FIXED), f"{name} holds {size} things in {path}"


def _containers(core: object) -> Iterator[tuple[str, int]]:
    """Every container that can be reached from a core, with the way to it."""
    seen: set[int] = set()
    open_: list[tuple[object, str]] = [(core, type(core).__name__)]
    while open_:
        held, path = open_.pop()
        if id(held) in seen or isinstance(held, _PLAIN):
            continue
        seen.add(id(held))
        if isinstance(held, dict):
            yield path, len(held)
            open_ += [(part, f"{path}[]") for pair in held.items() for part in pair]
        elif isinstance(held, (list, set, frozenset, deque)):
            yield path, len(held)
            open_ += [(part, f"{path}[]") for part in held]
        elif isinstance(held, tuple):
            open_ += [(part, path) for part in held]
        elif isinstance(held, MethodType):
            open_.append((held.__self__, path))
        else:
            open_ += [(part, f"{path}.{name}") for name, part in _attributes(held)]


def _attributes(held: object) -> Iterator[tuple[str, object]]:
    yield from getattr(held, "__dict__", {}).items()
    for kind in type(held).__mro__:
        for name in getattr(kind, "__slots__", ()):
            if hasattr(held, name):
                yield name, getattr(held, name)
