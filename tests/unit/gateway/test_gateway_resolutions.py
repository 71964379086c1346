"""Who waits for which name."""

from uuid import UUID

from connectivity.clock import SECOND
from gateway.resolutions import RESOLUTION_LIMIT, Assignment, Resolutions

NOW = 1_000 * SECOND
WIKI, WEB = UUID(int=1), UUID(int=2)


def assignment(client: str = "c", domain: str = "app.internal", resource: UUID = WEB) -> Assignment:
    return Assignment(client, resource, domain, ())


def test_a_name_is_asked_for_once_however_many_wait() -> None:
    waiting = Resolutions()
    assert waiting.add(assignment(domain="App.Internal."), NOW) == "app.internal"
    assert waiting.add(assignment("d"), NOW) is None
    assert waiting.add(assignment("d", resource=WIKI), NOW) is None
    assert waiting.add(assignment("d"), NOW) is None  # sent again
    assert len(waiting) == 3
    taken = waiting.take("APP.internal")
    assert [(entry.client_id, entry.resource) for entry in taken] == [("c", WEB), ("d", WEB), ("d", WIKI)]
    assert len(waiting) == 0
    assert waiting.take("app.internal") == []
    assert waiting.add(assignment(), NOW) == "app.internal"


def test_what_is_never_answered_is_given_up() -> None:
    waiting = Resolutions()
    waiting.add(assignment(), NOW)
    waiting.add(assignment(domain="wiki.internal"), NOW + SECOND)
    assert waiting.give_up(NOW + RESOLUTION_LIMIT - 1) == []
    assert [entry.domain for entry in waiting.give_up(NOW + RESOLUTION_LIMIT)] == ["app.internal"]
    assert len(waiting) == 1
