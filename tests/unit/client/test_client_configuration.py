"""What the client asks of its device: the latest state only."""

from random import Random
from typing import Any
from uuid import UUID

from client.core import ClientCore
from client.dns.actions import FlushNames
from connectivity.tunnel import ConfigureTun
from connectivity.wireguard import KeyPair


def interface(number: int) -> dict[str, Any]:
    return {"interface": {"ipv4": f"100.64.0.{number}", "ipv6": "fd00:2021:1111::2"}}


def test_of_a_flood_of_updates_only_the_last_one_waits() -> None:
    random = Random(1)
    core = ClientCore(keys=KeyPair.generate(random.randbytes), rng=random.randbytes)
    core.handle_portal("init", interface(1) | {"resources": [], "relays": []}, 0, 0)
    resource = {"type": "cidr", "name": "n", "gateway_groups": []}
    for number in range(400):
        core.handle_portal("config_changed", interface(number % 200 + 1), 0, 0)
        network = {"id": f"r-{number}", "address": f"10.{number % 250}.0.0/16"}
        core.handle_portal("resource_created_or_updated", resource | network, 0, 0)
    action = core.poll_action()
    assert isinstance(action, ConfigureTun)
    assert str(action.interface.ipv4) == "100.64.0.200"
    assert len(action.routes) == 256
    assert core.poll_action() is None


def test_what_a_wide_resource_does_not_name_stays_with_the_host() -> None:
    random = Random(1)
    core = ClientCore(keys=KeyPair.generate(random.randbytes), rng=random.randbytes)
    resource = {"type": "cidr", "name": "n", "id": "r", "address": "0.0.0.0/0", "gateway_groups": []}
    core.handle_portal("init", interface(1) | {"resources": [resource], "relays": []}, 0, 0)
    action = core.poll_action()
    assert isinstance(action, ConfigureTun)
    assert {"169.254.0.0/16", "100.64.0.0/10", "224.0.0.0/4"} <= set(map(str, action.excluded))
    core.handle_portal("resource_deleted", "r", 0, 0)
    action = core.poll_action()
    assert isinstance(action, ConfigureTun)
    assert list(map(str, action.excluded)) == ["100.100.100.200/32"]  # a metadata service within the proxy addresses


def test_of_a_flood_of_names_the_host_forgets_once_and_of_none_that_stayed_as_it_was() -> None:
    random = Random(1)
    core = ClientCore(keys=KeyPair.generate(random.randbytes), rng=random.randbytes)

    def flushes() -> int:
        return list(iter(core.poll_action, None)).count(FlushNames())

    names = [
        {"type": "dns", "name": "n", "id": str(UUID(int=number)), "address": f"{number}.example", "gateway_groups": []}
        for number in range(3)
    ]
    core.handle_portal("init", interface(1) | {"resources": names, "relays": []}, 0, 0)
    assert flushes() == 1
    core.handle_portal("init", interface(1) | {"resources": names, "relays": []}, 0, 0)
    core.handle_portal("resource_created_or_updated", names[0], 0, 0)
    assert flushes() == 0
    core.handle_portal("resource_created_or_updated", names[0] | {"address": "other.example"}, 0, 0)
    core.handle_portal("resource_deleted", str(UUID(int=1)), 0, 0)
    assert flushes() == 1
