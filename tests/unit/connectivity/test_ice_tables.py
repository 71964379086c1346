"""The three tables of an agent: local candidates, remote candidates, check list."""

from dataclasses import replace

from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint
from connectivity.ice import Candidate, CandidateKind, checklist, local, remote
from connectivity.ice.candidate import parse, peer_reflexive
from connectivity.ice.checklist import CheckList
from connectivity.ice.local import LocalCandidates
from connectivity.ice.remote import RemoteCandidate, RemoteCandidates

NOW = 7 * SECOND
HOST = Endpoint.parse("10.0.0.1:52625")


def host(text: str) -> Candidate:
    return Candidate.host(Endpoint.parse(text))


def reflexive(text: str) -> Candidate:
    address = Endpoint.parse(text)
    return parse(Candidate.server_reflexive(address, address).to_text())


def nobody(_: RemoteCandidate) -> bool:
    return False


def everybody(_: RemoteCandidate) -> bool:
    return True


# Local candidates.


def test_local_candidates_are_numbered_by_kind_and_family() -> None:
    table = LocalCandidates("abcd")
    added = [
        table.add(candidate)
        for candidate in (
            host("10.0.0.1:1"),
            host("10.0.0.2:1"),
            host("[2001:db8::1]:1"),
            Candidate.relayed(Endpoint.parse("192.0.2.1:50000"), HOST),
            Candidate.relayed(Endpoint.parse("[2001:db8::2]:50000"), HOST),
        )
    ]
    priorities = [candidate.priority for candidate in added if candidate is not None]
    assert priorities == [2130706175, 2130705663, 2130706431, 37748479, 37492735]
    assert [candidate.ufrag for candidate in table.live()] == ["abcd"] * 5


def test_a_known_local_candidate_is_not_new() -> None:
    table = LocalCandidates("abcd")
    assert table.add(host("10.0.0.1:1")) is not None
    assert table.add(host("10.0.0.1:1")) is None
    assert len(table) == 1


def test_only_candidates_to_send_from_take_part() -> None:
    table = LocalCandidates("abcd")
    assert table.add(Candidate.server_reflexive(Endpoint.parse("192.0.2.1:1"), HOST)) is None
    assert table.add(peer_reflexive(Endpoint.parse("192.0.2.1:1"), HOST, 1)) is None
    assert len(table) == 0


def test_discarded_local_candidates_count_for_numbers_and_come_back_with_their_own() -> None:
    table = LocalCandidates("abcd")
    first = table.add(host("10.0.0.1:1"))
    assert first is not None
    assert table.discard(host("10.0.0.1:1")) == first
    assert table.discard(host("10.0.0.1:1")) is None
    assert table.at(first.address) is None
    second = table.add(host("10.0.0.2:1"))
    assert second is not None
    assert second.priority == 2130705663
    assert table.add(host("10.0.0.1:1")) == first
    assert [candidate.address for candidate in table.live()] == [first.address, second.address]


def test_an_unknown_local_candidate_cannot_be_discarded() -> None:
    table = LocalCandidates("abcd")
    table.add(host("10.0.0.1:1"))
    assert table.discard(Candidate.relayed(Endpoint.parse("10.0.0.1:1"), HOST)) is None


def test_the_local_table_is_bounded() -> None:
    table = LocalCandidates("abcd")
    for port in range(1, local.MAX_ENTRIES + 1):
        assert table.add(host(f"10.0.0.1:{port}")) is not None
    assert table.add(host("10.0.0.2:1")) is None
    table.discard(host("10.0.0.1:5"))
    newest = table.add(host("10.0.0.2:1"))
    assert newest is not None
    assert newest.priority == 2130706175 - 2 * local.MAX_ENTRIES * 256
    assert len(table) == local.MAX_ENTRIES


# Remote candidates.


def test_an_invalidation_means_address_base_related_address_and_kind() -> None:
    table = RemoteCandidates(nobody)
    candidate = reflexive("192.0.2.1:1")
    entry = table.add(candidate)
    assert table.same(replace(candidate, priority=1, foundation="other", ufrag="abcd")) is entry
    assert table.same(host("192.0.2.1:1")) is None
    assert table.same(reflexive("192.0.2.1:2")) is None
    assert table.same(replace(candidate, related=None)) is None


def test_an_address_means_its_best_live_entry() -> None:
    table = RemoteCandidates(nobody)
    address = Endpoint.parse("192.0.2.1:1")
    worse, better = table.add(reflexive("192.0.2.1:1")), table.add(host("192.0.2.1:1"))
    assert better is not None
    assert table.at(address) is better
    better.discarded = True
    assert table.at(address) is worse
    assert list(table.live()) == [worse]
    assert table.at(Endpoint.parse("192.0.2.1:2")) is None


def test_the_remote_table_is_bounded_and_entries_in_use_stay() -> None:
    full = RemoteCandidates(everybody)
    for port in range(1, remote.MAX_ENTRIES + 1):
        assert full.add(host(f"10.0.0.1:{port}")) is not None
    assert full.add(host("10.0.0.2:1")) is None
    idle = RemoteCandidates(nobody)
    for port in range(1, remote.MAX_ENTRIES + 2):
        entry = idle.add(host(f"10.0.0.1:{port}"))
        assert entry is not None
        assert entry.index == port - 1
    assert len(idle) == remote.MAX_ENTRIES
    assert idle.at(Endpoint.parse("10.0.0.1:1")) is None


def test_optimistic_candidates_join_reflexive_addresses_with_host_ports() -> None:
    table = RemoteCandidates(nobody)
    table.add(host("10.0.0.1:52625"))
    table.add(reflexive("192.0.2.1:40000"))
    (guess,) = table.guess()
    assert guess.candidate.address == Endpoint.parse("192.0.2.1:52625")
    assert guess.candidate.base == Endpoint.parse("10.0.0.1:52625")
    assert guess.candidate.kind is CandidateKind.SRFLX
    assert guess.provisional
    assert table.guess() == []


def test_optimistic_candidates_are_two_in_all() -> None:
    table = RemoteCandidates(nobody)
    table.add(host("10.0.0.1:52625"))
    for number in range(1, 4):
        table.add(reflexive(f"192.0.2.{number}:40000"))
    guesses = table.guess()
    assert [str(guess.candidate.address) for guess in guesses] == ["192.0.2.1:52625", "192.0.2.2:52625"]
    table.add(reflexive("192.0.2.4:40000"))
    assert table.guess() == []


def test_no_optimistic_candidates_for_ipv6() -> None:
    table = RemoteCandidates(nobody)
    table.add(host("[2001:db8::1]:52625"))
    table.add(reflexive("[2001:db8::2]:40000"))
    table.add(reflexive("192.0.2.1:40000"))
    assert table.guess() == []


def test_a_known_address_is_not_guessed() -> None:
    table = RemoteCandidates(nobody)
    table.add(host("10.0.0.1:52625"))
    table.add(reflexive("192.0.2.1:52625"))
    assert table.guess() == []


# Check list.


def entry(text: str, index: int = 0) -> RemoteCandidate:
    return RemoteCandidate(index, host(text))


def test_only_addresses_of_one_family_are_paired() -> None:
    checks = CheckList(controlling=True)
    assert checks.form(host("10.0.0.1:1"), entry("[2001:db8::1]:1"), NOW) is None
    assert checks.form(host("10.0.0.1:1"), entry("10.0.0.2:1"), NOW) is not None


def test_pairs_stand_in_order_of_priority_and_equal_ones_in_order_of_arrival() -> None:
    checks = CheckList(controlling=False)
    remotes = [RemoteCandidate(0, reflexive("192.0.2.1:1")), RemoteCandidate(1, reflexive("192.0.2.1:2"))]
    remotes.append(RemoteCandidate(2, host("10.0.0.2:1")))
    for each in remotes:
        checks.form(host("10.0.0.1:1"), each, NOW)
    assert [pair.remote.index for pair in checks] == [2, 0, 1]


def test_redundant_pairs_keep_the_better_candidate_and_the_history() -> None:
    checks = CheckList(controlling=True)
    ours = host("10.0.0.1:1")
    worse = RemoteCandidate(0, reflexive("192.0.2.1:1"))
    better = RemoteCandidate(1, host("192.0.2.1:1"))
    pair = checks.form(ours, worse, NOW)
    assert pair is not None
    pair.nominated = True
    assert checks.form(ours, better, NOW) is None
    assert [each.remote.index for each in checks] == [1]
    assert pair.nominated
    assert checks.uses(better)
    assert not checks.uses(worse)
    assert checks.form(ours, worse, NOW) is None
    assert checks.uses(better)


def test_of_two_equal_candidates_for_one_pair_the_first_stays() -> None:
    checks = CheckList(controlling=True)
    first, second = entry("192.0.2.1:1", 0), entry("192.0.2.1:1", 1)
    checks.form(host("10.0.0.1:1"), first, NOW)
    checks.form(host("10.0.0.1:1"), second, NOW)
    assert checks.uses(first)
    assert not checks.uses(second)


def test_a_full_list_loses_its_worst_pair_without_nomination() -> None:
    checks = CheckList(controlling=True)
    ours = host("10.0.0.1:1")
    relayed = RemoteCandidate(0, parse("candidate:1 1 udp 5 192.0.2.1 1 typ relay"))
    nominated = checks.form(ours, relayed, NOW)
    assert nominated is not None
    nominated.nominated = True
    victim = checks.form(ours, RemoteCandidate(1, parse("candidate:1 1 udp 6 192.0.2.2 1 typ relay")), NOW)
    for number in range(2, checklist.MAX_PAIRS):
        assert checks.form(ours, entry(f"10.0.1.{number}:1", number), NOW) is not None
    assert not checks.overflowed
    assert checks.form(ours, entry("10.0.2.1:1", 500), NOW) is not None
    assert checks.overflowed
    assert victim not in checks
    assert nominated in checks
    assert checks.form(ours, RemoteCandidate(501, parse("candidate:1 1 udp 4 192.0.2.3 1 typ relay")), NOW) is None
    assert len(list(checks)) == checklist.MAX_PAIRS
