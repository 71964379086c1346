"""Floods of the portal: flows and candidates of one that is let in, replies that nobody reads, wrong tokens."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiohttp

from bench.figures import Figure
from bench.siege_device import Crowd, Device, send_text
from bench.siege_stage import ATTACKER, GATEWAYS, OTHER, PORTAL_AT, LogTail, Terms, besieged, resident_mib, start_portal
from connectivity.phoenix.message import JOIN_EVENT, Message, encode
from lab.network import entered
from lab.processes import Process

FRAMES: Final = 5
REPEATED_ID: Final = 256  # as many as one frame may name
FLOWS: Final = 6000
UNREAD_CONNECTIONS: Final = 2
UNREAD_FRAMES: Final = 300  # to each, with a topic that comes back in the reply
TOPIC_BYTES: Final = 600_000
WRONG_TOKENS: Final = 1500
_AT_ONCE: Final = 16
_FLOOD_SECONDS: Final = 20.0
_SETTLE_SECONDS: Final = 1.0
_CANDIDATE: Final = "candidate:1 1 udp 2130706431 203.0.113.201 40000 typ host"

Attack = Callable[[Device, str], Awaitable[None]]


def flows(terms: Terms) -> list[Figure]:
    """One device floods with candidates, and with wishes: does another one still get its flow?"""
    found: list[Figure] = []
    attacks: dict[str, Attack] = {
        f"one id {REPEATED_ID} times": _repeat_an_id,
        f"{FLOWS:,} create_flow": _ask_for_flows,
    }
    for text, attack in attacks.items():
        with besieged() as lab:
            tokens = {name: secrets.token_urlsafe(24) for name in ("home", "foreign", "attacker", "other")}
            start_portal(lab, terms, _two_sites(tokens))
            with entered(lab.internet):
                before, after, cut_off = asyncio.run(_attack_flows(tokens, attack))
        found += [
            Figure(f"{text}: another's flow before", before, "ms"),
            Figure(f"{text}: and meanwhile", after, "ms", at_most=1000),
            Figure(f"{text}: gateways cut off", cut_off, at_most=0),
        ]
    return found


def unread(terms: Terms) -> list[Figure]:
    """Replies to connections that do not read."""
    with besieged() as lab:
        token = secrets.token_urlsafe(24)
        portal = start_portal(lab, terms, {"tokens": [{"type": "client", "name": "a", "token": token}]})
        before = resident_mib(portal)
        with entered(lab.internet):
            highest = asyncio.run(_leave_unread(token, portal))
    grown = max(0.0, highest - before)
    return [Figure(f"unread: RSS for {UNREAD_CONNECTIONS} connections", grown, "MiB", at_most=32)]


def tokens(terms: Terms) -> list[Figure]:
    """Wrong tokens, and a right one of the same address beside them."""
    with besieged() as lab:
        token = secrets.token_urlsafe(24)
        portal = start_portal(lab, terms, {"tokens": [{"type": "client", "name": "a", "token": token}]})
        tail = LogTail(portal.log)
        with entered(lab.internet):
            worst, statuses, seconds = asyncio.run(_guess(token))
        text = tail.text()
    fatal = sum(statuses.get(status, 0) for status in (403, 429))
    lines = sum(" joined" not in line and " left" not in line for line in text.splitlines())
    return [
        Figure("wrong tokens: answered", sum(statuses.values())),
        Figure("wrong tokens: in so long", seconds, "s"),
        Figure("wrong tokens: log lines", lines, at_least=1, at_most=10),
        Figure("wrong tokens: answers 403 or 429", fatal, at_most=0),
        Figure("wrong tokens: a right one's join, worst", worst, "ms", at_most=1000),
    ]


def _two_sites(made: dict[str, str]) -> dict[str, Any]:
    sites = ("home", "foreign")
    return {
        "sites": [{"name": site} for site in sites],
        "resources": [
            {"name": site, "type": "cidr", "address": f"10.{number}.0.0/16", "sites": [site]}
            for number, site in enumerate(sites, 1)
        ],
        "policies": [
            {"resource": "home", "actors": ["attacker", "other"]},
            {"resource": "foreign", "actors": ["other"]},
        ],
        "tokens": [
            *({"type": "gateway", "site": site, "token": made[site]} for site in sites),
            *({"type": "client", "name": name, "token": made[name]} for name in ("attacker", "other")),
        ],
    }


async def _attack_flows(made: dict[str, str], attack: Attack) -> tuple[float | None, float | None, int]:
    """How long another's flow takes before and during, and how many gateways the portal cut off."""
    async with Crowd.open() as crowd:
        # The attacker's gateway lets nobody in: what is asked of it stays open.
        gateways = [
            await crowd.join("gateway", made["home"], "home", GATEWAYS, confirms=False),
            await crowd.join("gateway", made["foreign"], "foreign", GATEWAYS),
        ]
        other = await crowd.join("client", made["other"], "other", OTHER)
        attacker = await crowd.join("client", made["attacker"], "attacker", ATTACKER)
        foreign = other.resources["foreign"]
        before, flow = await other.flow(foreign)
        await attack(attacker, str(flow.get("gateway_id")))
        during, _ = await other.flow(foreign)
        await asyncio.sleep(_SETTLE_SECONDS)
        return before, during, sum(not gateway.is_open for gateway in gateways)


async def _repeat_an_id(attacker: Device, gateway_id: str) -> None:
    payload = {"gateway_ids": [gateway_id] * REPEATED_ID, "candidates": [_CANDIDATE]}
    for _ in range(FRAMES):
        if not await attacker.send("broadcast_ice_candidates", payload):
            return


async def _ask_for_flows(attacker: Device, _gateway_id: str) -> None:
    payload = {"resource_id": attacker.resources["home"], "connected_gateway_ids": []}
    for _ in range(FLOWS):
        if not await attacker.send("create_flow", payload):
            return


async def _leave_unread(token: str, portal: Process) -> float:
    """The portal's highest memory meanwhile."""
    highest = resident_mib(portal)
    frame = encode(Message("x" * TOPIC_BYTES, "y", {}, 1))
    async with Crowd.open() as crowd:
        opened = [
            await crowd.connect("client", token, f"unread-{number}", ATTACKER) for number in range(UNREAD_CONNECTIONS)
        ]
        ends = time.monotonic() + _FLOOD_SECONDS
        for _ in range(UNREAD_FRAMES):
            went = [await send_text(websocket, frame) for websocket in opened]
            highest = max(highest, resident_mib(portal))
            if not any(went) or time.monotonic() > ends:
                break
        await asyncio.sleep(_SETTLE_SECONDS)
        return max(highest, resident_mib(portal))


async def _guess(token: str) -> tuple[float | None, dict[int, int], float]:
    """The longest join by the right token, the answers to the wrong ones by status, and how long these took."""
    statuses: dict[int, int] = {}
    waiting = iter(range(WRONG_TOKENS))
    started = time.monotonic()

    async def guess(crowd: Crowd) -> None:
        url = f"http://{PORTAL_AT}/client/websocket?external_id=x&name=x&token="
        for _number in waiting:
            try:
                async with crowd.session(ATTACKER).get(url + secrets.token_urlsafe(24)) as answer:
                    statuses[answer.status] = statuses.get(answer.status, 0) + 1
            except aiohttp.ClientError:
                continue  # the portal has ended the connection without a word

    async with Crowd.open() as crowd:
        guesses = [asyncio.get_running_loop().create_task(guess(crowd)) for _ in range(_AT_ONCE)]
        try:
            worst = await _join_beside(crowd, token, guesses)
            await asyncio.wait(guesses, timeout=max(0.0, _FLOOD_SECONDS - (time.monotonic() - started)))
            return worst, statuses, time.monotonic() - started
        finally:
            for task in guesses:
                task.cancel()
            await asyncio.gather(*guesses, return_exceptions=True)


async def _join_beside(crowd: Crowd, token: str, guesses: list[asyncio.Task[None]]) -> float | None:
    """Join again and again while there are guesses, at most five times: the longest; None if one failed."""
    worst = 0.0
    for number in range(5):
        started = time.monotonic()
        try:
            async with asyncio.timeout(5):
                websocket = await crowd.connect("client", token, f"right-{number}", ATTACKER)
                await send_text(websocket, encode(Message("client", JOIN_EVENT, {}, 1)))
                await websocket.receive()
        except (aiohttp.ClientError, TimeoutError):
            return None
        worst = max(worst, (time.monotonic() - started) * 1000)
        if all(task.done() for task in guesses):
            break
        await asyncio.sleep(0.1)
    return worst
