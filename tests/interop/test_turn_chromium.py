"""Chromium's WebRTC through a stand-alone relay: two peers in one page, data and video, relayed candidates only.

Both have their allocation on the same relay, as browsers in one meeting do.
"""

import shutil
from contextlib import ExitStack
from typing import Any, Final

import pytest
from playwright.sync_api import Page, sync_playwright

from tests.e2e.engine import install
from tests.interop.turn_stage import PASSWORD, TLS_PORT, USER, TurnStage
from tests.netns.plain_pair import entered

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]  # the first one may have to install programs

SIZES: Final = (1, 1000, 1200, 16_384, 65_536)
WAYS: Final = {
    "udp": "turn:198.51.100.1:3478?transport=udp",
    "udp over IPv6": "turn:[2001:db8::1]:3478?transport=udp",
    "tcp": "turn:198.51.100.1:3478?transport=tcp",
    "tls": f"turns:198.51.100.1:{TLS_PORT}?transport=tcp",
    "tls over IPv6": f"turns:[2001:db8::1]:{TLS_PORT}?transport=tcp",
}
# The relay's certificate is its own, and nothing but the relay is in reach.
FLAGS: Final = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--ignore-certificate-errors")

# Returns what the peers of a page got, per channel end, how much of a video came over, and which candidates carried it.
MEETING: Final = """
async ({server, sizes}) => {
  const configuration = {iceServers: [server], iceTransportPolicy: "relay"};
  const peers = [new RTCPeerConnection(configuration), new RTCPeerConnection(configuration)];
  const errors = [], got = [[], []];
  const late = new Promise((_, reject) => setTimeout(
    () => reject(new Error(`of ${server.urls} came only ${JSON.stringify(got)}; ${errors}`)), 90000));
  peers.forEach((peer, index) => {
    const other = peers[1 - index];
    peer.onicecandidate = event => event.candidate && other.addIceCandidate(event.candidate);
    peer.onicecandidateerror = event => errors.push(`${event.errorCode} ${event.errorText}`);
  });

  const message = size => Uint8Array.from({length: size}, (_, index) => index % 251);
  const equal = (one, other) => one.length === other.length && one.every((byte, index) => byte === other[index]);
  const send = channel => sizes.forEach(size => channel.send(message(size)));
  const receive = (channel, got) => new Promise(resolve => {
    channel.binaryType = "arraybuffer";
    channel.onmessage = ({data}) => {
      const bytes = new Uint8Array(data);
      got.push(equal(bytes, message(bytes.length)) ? bytes.length : -1);
      if (got.length === sizes.length) resolve();
    };
  });
  // The browser loses what comes before there is somebody to take it: each channel gets its handler with its birth,
  // and the second peer answers what it got, because by then the first one's channel is open for sure.
  const channel = peers[0].createDataChannel("first");
  channel.onopen = () => send(channel);
  const first = receive(channel, got[0]);
  const second = new Promise(resolve => {
    peers[1].ondatachannel = event => receive(event.channel, got[1]).then(() => resolve(send(event.channel)));
  });
  // A picture that changes: there is no camera, and none is needed.
  const canvas = document.createElement("canvas");
  const picture = canvas.getContext("2d");
  const drawing = setInterval(() => picture.fillRect(Math.random() * 300, Math.random() * 150, 20, 20), 20);
  const stream = canvas.captureStream();
  peers[0].addTrack(stream.getVideoTracks()[0], stream);
  const film = async () => {
    for (;;) {
      const stats = [...(await peers[1].getStats()).values()];
      const inbound = stats.find(entry => entry.type === "inbound-rtp");
      if (inbound?.packetsReceived >= 20 && inbound.framesDecoded >= 5) return inbound.kind;
      await new Promise(resolve => setTimeout(resolve, 50));
    }
  };
  await peers[0].setLocalDescription();
  await peers[1].setRemoteDescription(peers[0].localDescription);
  await peers[1].setLocalDescription();
  await peers[0].setRemoteDescription(peers[1].localDescription);
  const [kind] = await Promise.race([Promise.all([film(), first, second]), late]);
  clearInterval(drawing);

  const selected = await Promise.all(peers.map(async peer => {
    const stats = await peer.getStats();
    const transport = [...stats.values()].find(entry => entry.type === "transport");
    const pair = stats.get(transport.selectedCandidatePairId);
    const [local, remote] = [stats.get(pair.localCandidateId), stats.get(pair.remoteCandidateId)];
    return [local.candidateType, remote.candidateType, local.relayProtocol, local.url];
  }));
  peers.forEach(peer => peer.close());
  return {got, kind, selected};
}
"""


class Stage(TurnStage):
    """With a page in a browser."""

    def __init__(self, stack: ExitStack, mode: str) -> None:
        super().__init__(stack, mode)
        install(("chromium",), ("chromium",))
        with entered(self.there):  # and so do its children
            playwright = stack.enter_context(sync_playwright())
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        stack.callback(browser.close)
        self.page: Page = browser.new_page()

    def meet(self, url: str) -> Any:
        server = {"urls": [url], "username": USER, "credential": PASSWORD}
        return self.page.evaluate(MEETING, {"server": server, "sizes": SIZES})


@pytest.mark.parametrize("mode", ["off", "native"])
def test_peers_of_a_page_meet_through_the_relay(mode: str) -> None:
    with ExitStack() as stack:
        stage = Stage(stack, mode)
        for way, url in WAYS.items():
            before = stage.packets("xdp")
            found = stage.meet(url)
            assert found["got"] == [list(SIZES), list(SIZES)], way
            assert found["kind"] == "video", way
            assert found["selected"] == [["relay", "relay", way.split()[0], url]] * 2, way
            # Channel data of clients that both use UDP is the kernel's.
            assert (stage.packets("xdp") > before) == (mode == "native" and way.startswith("udp")), way
        stage.end_capture()
        assert not stage.faults()
        for transport in ("udp", "tcp"):
            assert stage.messages(f"{transport} && stun.type == 0x0103"), transport
        assert stage.messages("stun.type == 0x0103", within_tls=True)
        assert not stage.complaints()
