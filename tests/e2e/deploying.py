"""docs/deploying.md as what is to be done: its blocks, at which machine each is typed, what a command shows."""

import re
from collections.abc import Iterator
from typing import Final

from lab.plan import relay_site
from tests.documented import ROOT

#: The document's machines, by the heading above what is typed there; all else is typed at the portal's.
MACHINES: Final = {"The relay": "relay", "The gateway": "gateway", "The laptop": "client", "Upgrading": "gateway"}
#: What a command tells there; of these some have another test, too.
SHOWN: Final = {
    "curl --silent http://127.0.0.1:8080/readyz": '"ready": true',
    "curl --silent --fail --retry 9 --retry-delay 1 --retry-connrefused http://127.0.0.1:8080/readyz": '"ready": true',
    "postern doctor relay": "settings of the relay: ok",
    "postern doctor gateway": "settings of the gateway: ok",
    "postern doctor client": "settings of the client: ok",
    "postern client status": "joined",
    "postern portal --check /etc/postern/portal.yaml": "no mistake found",
}
#: It names what only a test leaves out: the packages for the offload.
MAY_FAIL: Final = "postern doctor relay"
#: The certificate of the portal's machine, and of whom all machines have it.
CERTIFICATE: Final = (
    "mkdir /etc/ssl/postern && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    " -subj /CN=portal.example.org -addext subjectAltName=DNS:portal.example.org"
    " -keyout /etc/ssl/postern/key.pem -out /etc/ssl/postern/fullchain.pem"
    " && cp /etc/ssl/postern/fullchain.pem /usr/local/share/ca-certificates/portal.crt && update-ca-certificates"
)


def blocks() -> Iterator[tuple[str, str, str]]:
    """The fenced blocks of the document in their order: heading above, kind, text."""
    document = (ROOT / "docs/deploying.md").read_text()
    for section in re.split(r"^## ", document, flags=re.MULTILINE)[1:]:
        heading, _, rest = section.partition("\n")
        for kind, text in re.findall(r"^```(\w+)\n(.*?)^```$", rest, re.MULTILINE | re.DOTALL):
            yield heading, kind, text


def file_of(block: str) -> tuple[str, bool, str] | None:
    """Path, whether there is more of it already, and content of the file that a block is, with the lab's relay."""
    first, _, rest = block.partition("\n")
    found = re.fullmatch(r"# (more (?:tokens )?of )?(/\S+)", first)
    if found is None:
        return None
    return found[2], bool(found[1]), rest.replace("203.0.113.5", relay_site(1).address)
