"""Sealing and opening of runs: every shape, and every way in which rows can be refused."""

from collections import Counter

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from connectivity.clock import SECOND
from connectivity.run import Run
from connectivity.wireguard.errors import DropReason
from connectivity.wireguard.noise import TransportKeys
from connectivity.wireguard.session import Session
from connectivity.wireguard.workspace import Workspace

KEY_A, KEY_B = bytes(range(32)), bytes(range(32, 64))
SHAPES = [
    (1, 1, 0), (1, 80, 0), (1, 1280, 0), (2, 40, 0), (2, 40, 1), (3, 33, 7), (48, 1280, 0), (50, 1280, 700),
    (64, 1000, 999), (65, 576, 1), (130, 100, 5), (800, 80, 0), (900, 60, 20), (5, 9000, 100),
]  # fmt: skip


@pytest.mark.parametrize("headroom", [0, 4])
@pytest.mark.parametrize(("full", "size", "tail"), SHAPES)
def test_runs_of_every_shape_survive_and_look_like_data_messages(
    full: int, size: int, tail: int, headroom: int
) -> None:
    sender, receiver = sessions()
    plain = pattern(full * size + tail)
    sealed = sender.seal(Run(memoryview(plain), size), headroom)
    assert sealed.segment_size == headroom + size + 32
    packets = list(Run(memoryview(plain), size).segments())
    for counter, (packet, message) in enumerate(zip(packets, sealed.segments(), strict=True)):
        header = b"\x04\0\0\0" + (0x22).to_bytes(4, "little") + counter.to_bytes(8, "little")
        assert bytes(message[headroom : headroom + 16]) == header
        nonce = bytes(4) + counter.to_bytes(8, "little")
        assert ChaCha20Poly1305(KEY_A).decrypt(nonce, message[headroom + 16 :], None) == packet
    assert opened(receiver, sealed, headroom) == (len(packets), plain, {})


def test_counters_go_on_across_runs_of_different_shapes_in_a_shared_workspace() -> None:
    workspace = Workspace()
    sender, receiver = sessions(workspace)
    other_sender, other_receiver = sessions(workspace)
    total = 0
    for full, size, tail in SHAPES * 2:
        run = Run(memoryview(pattern(full * size + tail)), size)
        for source, target in ((sender, receiver), (other_sender, other_receiver)):
            sealed = source.seal(run, 4)
            first = int.from_bytes(sealed.data[12:20], "little")
            assert first == total
            assert opened(target, sealed, 4) == (run.segment_count, bytes(run.data), {})
        total += run.segment_count


def test_more_sizes_than_are_remembered_stay_right() -> None:
    sender, receiver = sessions()
    for _ in range(2):
        for size in range(100, 150):
            plain = pattern(3 * size)
            assert opened(receiver, sender.seal(Run(memoryview(plain), size)), 0) == (3, plain, {})


def test_a_read_only_input_will_do() -> None:
    sender, receiver = sessions()
    sealed = sender.seal(Run(memoryview(b"x" * 300), 100))
    frozen = Run(memoryview(bytes(sealed.data)), sealed.segment_size)
    assert opened(receiver, frozen, 0) == (3, b"x" * 300, {})


@pytest.mark.parametrize("position", [0, 1, 4, 5])
def test_a_row_that_is_not_authentic_is_taken_out(position: int) -> None:
    sender, receiver = sessions()
    rows = [bytes([number]) * 100 for number in range(5)] + [b"tail"]
    message = bytearray(sender.seal(Run(memoryview(b"".join(rows)), 100), 4).data)
    message[136 * position + 4 + 20] ^= 1
    expected = b"".join(rows[:position] + rows[position + 1 :])
    assert opened(receiver, Run(memoryview(message), 136), 4) == (5, expected, {DropReason.NOT_AUTHENTIC: 1})
    message[136 * position + 4 + 20] ^= 1
    # The forgery did not use up the counter of the real message.
    real = Run(memoryview(message)[136 * position : 136 * (position + 1)], 136)
    assert opened(receiver, real, 4)[0] == 1


def test_a_run_of_forgeries_leaves_nothing() -> None:
    _, receiver = sessions()
    message = bytearray(132 * 4)
    assert opened(receiver, Run(memoryview(message), 132), 0) == (0, b"", {DropReason.NOT_AUTHENTIC: 4})


def test_a_replayed_run_leaves_nothing_and_a_half_replayed_one_its_new_rows() -> None:
    sender, receiver = sessions()
    plain = pattern(1000)
    messages = bytes(sender.seal(Run(memoryview(plain), 100)).data)
    assert opened(receiver, Run(memoryview(messages)[: 132 * 5], 132), 0) == (5, plain[:500], {})
    whole = Run(memoryview(messages), 132)
    assert opened(receiver, whole, 0) == (5, plain[500:], {DropReason.DUPLICATE: 5})
    assert opened(receiver, whole, 0) == (0, b"", {DropReason.DUPLICATE: 10})


def test_rows_out_of_order_with_gaps_and_doubles_come_out_once_each_in_arrival_order() -> None:
    sender, receiver = sessions()
    plain = pattern(1000)
    messages = list(Run(memoryview(bytes(sender.seal(Run(memoryview(plain), 100)).data)), 132).segments())
    order = [3, 1, 2, 2, 7, 9, 3]
    mixed = Run(memoryview(b"".join(messages[number] for number in order)), 132)
    expected = b"".join(plain[100 * number : 100 * number + 100] for number in [3, 1, 2, 7, 9])
    assert opened(receiver, mixed, 0) == (5, expected, {DropReason.DUPLICATE: 2})


def test_too_old_and_duplicate_are_told_apart() -> None:
    sender, receiver = sessions()
    old = [bytes(sender.seal(Run.single(b"old")).data) for _ in range(2)]
    opened(receiver, sender.seal(Run(memoryview(pattern(1024 * 20)), 20)), 0)
    # Counter 1025 is the highest: 2 is the lowest in the window.
    assert opened(receiver, Run.single(old[1]), 0) == (0, b"", {DropReason.TOO_OLD: 1})
    assert opened(receiver, Run(memoryview(b"".join(old)), len(old[0])), 0) == (0, b"", {DropReason.TOO_OLD: 2})


def test_keep_alives_are_authenticated_and_vanish() -> None:
    sender, receiver = sessions()
    keep_alives = [bytes(sender.seal(Run(memoryview(b""), 0)).data) for _ in range(3)]
    assert {len(message) for message in keep_alives} == {32}
    assert opened(receiver, Run.single(keep_alives[0]), 0) == (1, b"", {})
    assert opened(receiver, Run.single(keep_alives[0]), 0) == (0, b"", {DropReason.DUPLICATE: 1})
    assert opened(receiver, Run(memoryview(b"".join(keep_alives[1:])), 32), 0) == (2, b"", {})


def test_a_keep_alive_at_the_end_of_a_run_of_packets() -> None:
    sender, receiver = sessions()
    packets = bytes(sender.seal(Run(memoryview(pattern(200)), 100)).data)
    keep_alive = bytes(sender.seal(Run(memoryview(b""), 0)).data)
    run = Run(memoryview(packets + keep_alive), 132)
    assert opened(receiver, run, 0) == (3, pattern(200), {})


@pytest.mark.parametrize("length", [1, 15, 16, 31])
def test_rows_too_short_for_a_message_are_malformed(length: int) -> None:
    sender, receiver = sessions()
    good = bytes(sender.seal(Run(memoryview(pattern(200)), 100)).data)
    assert opened(receiver, Run(memoryview(good + bytes(length)), 132), 0) == (
        2, pattern(200), {DropReason.MALFORMED: 1},
    )  # fmt: skip
    assert opened(receiver, Run.single(bytes(length)), 0) == (0, b"", {DropReason.MALFORMED: 1})
    assert opened(receiver, Run(memoryview(bytes(2 * length)), length), 0) == (0, b"", {DropReason.MALFORMED: 2})


def test_the_run_that_seal_lent_survives_until_the_next_seal_though_opens_happen() -> None:
    workspace = Workspace()
    sender, receiver = sessions(workspace)
    back_sender, back_receiver = receiver, sender
    sealed = sender.seal(Run(memoryview(pattern(500)), 100))
    kept = bytes(sealed.data)
    answer = bytes(back_sender.seal(Run(memoryview(pattern(300)), 100)).data)
    again = sender.seal(Run(memoryview(pattern(500)), 100))
    before = bytes(again.data)
    opened(back_receiver, Run(memoryview(answer), 132), 0)
    assert bytes(again.data) == before != kept


def test_batches_allocate_no_packet_sized_memory_after_the_first() -> None:
    workspace = Workspace()
    sender, receiver = sessions(workspace)
    run = Run(memoryview(pattern(48 * 1280)), 1280)
    opened(receiver, sender.seal(run), 0)
    buffers = [workspace.staging.view, workspace.sealed.view, workspace.opened.view]
    rows = workspace.sealed.rows(1312, 16, 1296, 48)
    for _ in range(20):
        opened(receiver, sender.seal(run), 0)
    after = [workspace.staging.view, workspace.sealed.view, workspace.opened.view]
    assert all(a is b for a, b in zip(buffers, after, strict=True))
    assert workspace.sealed.rows(1312, 16, 1296, 48) is rows


def sessions(workspace: Workspace | None = None) -> tuple[Session, Session]:
    shared = Workspace() if workspace is None else workspace
    sender = Session(
        keys=TransportKeys(KEY_A, KEY_B),
        local_index=0x11,
        remote_index=0x22,
        is_initiator=True,
        workspace=shared,
        now=0,
    )
    receiver = Session(
        keys=TransportKeys(KEY_B, KEY_A),
        local_index=0x22,
        remote_index=0x11,
        is_initiator=False,
        workspace=shared,
        now=0,
    )
    assert (sender.send_until, receiver.send_until) == (170 * SECOND, 180 * SECOND)
    return sender, receiver


def opened(receiver: Session, run: Run, headroom: int) -> tuple[int, bytes, dict[DropReason, int]]:
    """Open a copy of ``run``: how many were authentic, all plaintext, and what was dropped."""
    drops: Counter[DropReason] = Counter()
    copy = Run(memoryview(bytes(run.data)), run.segment_size)
    authentic, packets = receiver.open(copy, headroom, drops)
    if packets is None:
        return authentic, b"", dict(drops)
    assert packets.segment_size == min(max(run.segment_size - headroom - 32, 0), len(packets.data))
    return authentic, bytes(packets.data), dict(drops)


def pattern(length: int) -> bytes:
    return bytes(number % 251 for number in range(length))
