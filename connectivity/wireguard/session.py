"""The transport of one WireGuard session: sealing and opening runs (WireGuard paper, section 5.4.6). The hot path.

The price of a batch is the AEAD of its packets plus about a dozen calls: one copy of the input into scratch memory
whose row slices already exist, a few numpy calls for counters and headers, and one ``map`` over the cipher that runs in
C. Opening decrypts all rows in that way, straight to where they belong in the output, and only if a row does not
authenticate goes through them one by one. An ``Accelerator``, where the process has one, does either in one call.

Invariants: a send counter is used once; the replay window moves only for authenticated messages; no padding is added
(peers cut packets to the length in their IP header); a plaintext of no bytes is a keep-alive and never comes out.
"""

from collections import Counter, deque
from itertools import repeat
from struct import Struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from connectivity import accelerator
from connectivity.clock import SECOND, Duration, Instant
from connectivity.run import Run
from connectivity.wireguard.errors import DropReason
from connectivity.wireguard.messages import DATA, DATA_HEADER_BYTES, DATA_OVERHEAD_BYTES, TAG_BYTES
from connectivity.wireguard.noise import TransportKeys
from connectivity.wireguard.replay import ReplayWindow
from connectivity.wireguard.workspace import Workspace

REJECT_AFTER: Final[Duration] = 180 * SECOND
# The initiator stops sending early enough for a new handshake to be done before the session is rejected.
SHOULD_NOT_USE_AFTER: Final[Duration] = 170 * SECOND

_HEADER = Struct("<IIQ")
_NONCE = Struct("<4xQ")
_COUNTER = Struct("<8xQ")
_consume: Final = deque[int](maxlen=0).extend


class Session:
    """One pair of transport keys. ``local_index`` is in messages to us, ``remote_index`` in messages to the peer."""

    __slots__ = (
        "_cipher",
        "_decrypt_into",
        "_encrypt_into",
        "_header_word",
        "_send_counter",
        "_workspace",
        "established_at",
        "is_initiator",
        "local_index",
        "reject_at",
        "remote_index",
        "send_until",
        "window",
    )

    def __init__(
        self,
        *,
        keys: TransportKeys,
        local_index: int,
        remote_index: int,
        is_initiator: bool,
        workspace: Workspace,
        now: Instant,
    ) -> None:
        self.local_index = local_index
        self.remote_index = remote_index
        self.is_initiator = is_initiator
        self.established_at = now
        self.reject_at = now + REJECT_AFTER
        self.send_until = now + (SHOULD_NOT_USE_AFTER if is_initiator else REJECT_AFTER)
        self._workspace = workspace
        self._encrypt_into = ChaCha20Poly1305(keys.send).encrypt_into
        self._decrypt_into = ChaCha20Poly1305(keys.receive).decrypt_into
        helper = accelerator.current
        self._cipher = None if helper is None else helper.cipher(keys.send, keys.receive, remote_index)
        # 64 bits of counter outlast 180 seconds at any speed, so there is no limit to check.
        self._send_counter = 0
        self.window = ReplayWindow()
        self._header_word = remote_index << 32 | DATA

    @property
    def send_counter(self) -> int:
        """The counter of the next message."""
        return self._send_counter

    def resume(self, counter: int, highest: int) -> None:
        """Go on where another process was: send with ``counter`` next, and refuse what is not above ``highest``."""
        self._send_counter = max(counter, self._send_counter)
        if highest > self.window.highest:
            self.window.close(highest)

    def seal(self, run: Run, headroom: int = 0) -> Run:
        """Data messages of the run's packets, each behind ``headroom`` unspecified bytes.

        Borrowed from the workspace until its next seal.
        """
        data, size = run
        length = len(data)
        if length <= size:
            return self._seal_one(data, headroom)
        full, tail = divmod(length, size)
        count = full + 1 if tail else full
        stride = headroom + size + DATA_OVERHEAD_BYTES
        total = full * stride + (headroom + tail + DATA_OVERHEAD_BYTES if tail else 0)
        # Whole rows, for the header words are written through views of whole rows.
        output = self._workspace.sealed.reserve(count * stride)
        counter = self._send_counter
        self._send_counter += count
        cipher = self._cipher
        if cipher is None or not cipher.seal(data, size, headroom, counter, output):
            self._seal_rows(run, headroom, counter)
        return Run(output[:total], stride)

    def _seal_rows(self, run: Run, headroom: int, counter: int) -> None:
        """Seal several packets to where they belong in the workspace."""
        data, size = run
        length = len(data)
        full, tail = divmod(length, size)
        count = full + 1 if tail else full
        stride = headroom + size + DATA_OVERHEAD_BYTES
        body = headroom + DATA_HEADER_BYTES
        workspace = self._workspace
        staging, sealed, nonces = workspace.staging, workspace.sealed, workspace.nonces
        staged = staging.reserve(length)
        staged[:length] = data
        counters = nonces.fill(counter, count)
        sealed.words(stride, headroom)[:count] = self._header_word
        sealed.words(stride, headroom + 8)[:count] = counters
        _consume(
            map(
                self._encrypt_into,
                nonces.rows,
                staging.rows(size, 0, size, full),
                repeat(None, full),
                sealed.rows(stride, body, size + TAG_BYTES, full),
            )
        )
        if tail:
            start = full * stride + body
            message = sealed.view[start : start + tail + TAG_BYTES]
            self._encrypt_into(nonces.rows[full], staged[full * size : length], None, message)

    def open(self, run: Run, headroom: int, drops: Counter[DropReason]) -> tuple[int, Run | None]:
        """Decrypt data messages of this session, each behind ``headroom`` bytes to skip.

        Returns:
            How many messages were authentic and new, and their packets: rows of (segment size - headroom - 32) bytes,
            borrowed from the workspace until its next open. None: there were no packets, at most keep-alives.
        """
        data, size = run
        length = len(data)
        if length <= size:
            return self._open_one(data, headroom, drops)
        full, tail = divmod(length, size)
        overhead = headroom + DATA_OVERHEAD_BYTES
        plain = size - overhead
        if plain <= 0 or 0 < tail <= overhead:
            return self._open_rows(run, headroom, drops)
        count = full + 1 if tail else full
        end = full * plain + (tail - overhead if tail else 0)
        packets = Run(self._workspace.opened.reserve(count * plain)[:end], plain)
        counters = self._decrypt(run, headroom, packets)
        if counters is None:
            return self._open_rows(run, headroom, drops)
        if type(counters) is range and counters.start > self.window.highest:
            self.window.mark_next(counters.start, count)
            return count, packets
        return self._mark_rows(counters, packets, drops)

    def _decrypt(self, run: Run, headroom: int, packets: Run) -> range | list[int] | None:
        """Decrypt all messages into ``packets``. Their counters, as a range where they ascend one by one.

        None: at least one is not authentic.
        """
        data, size = run
        cipher = self._cipher
        if cipher is None:
            return self._decrypt_rows(run, headroom, packets)
        opened = cipher.open(data, size, headroom, packets.data)
        if not opened:
            return None
        counter: int
        (counter,) = _COUNTER.unpack_from(data, headroom)
        if opened > 0:
            return range(counter, counter + opened)
        return [_COUNTER.unpack_from(data, start)[0] for start in range(headroom, len(data), size)]

    def _decrypt_rows(self, run: Run, headroom: int, packets: Run) -> range | list[int] | None:
        """``_decrypt`` in Python: one call for all rows that are whole."""
        data, size = run
        output, plain = packets
        staging, nonces = self._workspace.staging, self._workspace.nonces
        length = len(data)
        full, tail = divmod(length, size)
        count = full + 1 if tail else full
        body = headroom + DATA_HEADER_BYTES
        staging.reserve(count * size)[:length] = data
        nonces.reserve(count)
        nonces.counters[:count] = staging.words(size, headroom + 8)[:count]
        try:
            _consume(
                map(
                    self._decrypt_into,
                    nonces.rows,
                    staging.rows(size, body, plain + TAG_BYTES, full),
                    repeat(None, full),
                    self._workspace.opened.rows(plain, 0, plain, full),
                )
            )
            if tail:
                message = staging.view[full * size + body : length]
                self._decrypt_into(nonces.rows[full], message, None, output[full * plain :])
        except InvalidTag:
            return None
        counters: list[int] = nonces.counters[:count].tolist()
        ascending = range(counters[0], counters[0] + count)
        return ascending if counters == list(ascending) else counters

    def _seal_one(self, packet: memoryview, headroom: int) -> Run:
        counter = self._send_counter
        self._send_counter = counter + 1
        total = headroom + DATA_OVERHEAD_BYTES + len(packet)
        output = self._workspace.sealed.reserve(total)[:total]
        _HEADER.pack_into(output, headroom, DATA, self.remote_index, counter)
        self._encrypt_into(_NONCE.pack(counter), packet, None, output[headroom + DATA_HEADER_BYTES :])
        return Run(output, total)

    def _open_one(self, message: memoryview, headroom: int, drops: Counter[DropReason]) -> tuple[int, Run | None]:
        plain = len(message) - headroom - DATA_OVERHEAD_BYTES
        if plain < 0:
            drops[DropReason.MALFORMED] += 1
            return 0, None
        output = self._workspace.opened.reserve(plain)[:plain]
        refusal = self._open_into(message, headroom, output)
        if refusal is not None:
            drops[refusal] += 1
            return 0, None
        return 1, Run(output, plain) if plain else None

    def _open_rows(self, run: Run, headroom: int, drops: Counter[DropReason]) -> tuple[int, Run | None]:
        """Open message by message, closing the gaps: what to do when some are not authentic or hold no packet."""
        plain = max(run.segment_size - headroom - DATA_OVERHEAD_BYTES, 0)
        output = self._workspace.opened.reserve(run.segment_count * plain)
        authentic = end = 0
        for message in run.segments():
            size = len(message) - headroom - DATA_OVERHEAD_BYTES
            if size < 0:
                refusal: DropReason | None = DropReason.MALFORMED
            else:
                refusal = self._open_into(message, headroom, output[end : end + size])
            if refusal is not None:
                drops[refusal] += 1
                continue
            authentic += 1
            end += size
        return authentic, Run(output[:end], min(plain, end)) if end else None

    def _mark_rows(self, counters: range | list[int], run: Run, drops: Counter[DropReason]) -> tuple[int, Run | None]:
        """Take the rows of replayed messages out of a decrypted run."""
        refusals = [self.window.mark(counter) for counter in counters]
        if not any(refusals):
            return len(counters), run
        drops.update(refusal for refusal in refusals if refusal is not None)
        rows = zip(run.segments(), refusals, strict=True)
        kept = [packet for packet, refusal in rows if refusal is None]
        end = 0
        for packet in kept:
            run.data[end : end + len(packet)] = packet
            end += len(packet)
        return len(kept), Run(run.data[:end], min(run.segment_size, end)) if end else None

    def _open_into(self, message: memoryview, headroom: int, output: memoryview) -> DropReason | None:
        counter: int
        (counter,) = _COUNTER.unpack_from(message, headroom)
        refusal = self.window.refusal(counter)
        if refusal is not None:
            return refusal
        try:
            self._decrypt_into(_NONCE.pack(counter), message[headroom + DATA_HEADER_BYTES :], None, output)
        except InvalidTag:
            return DropReason.NOT_AUTHENTIC
        return self.window.mark(counter)
