"""What to do about each warning; the log says it behind the line, docs/glossary.md in one table.

By message, because those who meet a warning in a core know what is wrong, and not how a host is put right. A line that
has a ``remedy`` of its own keeps that. A test holds that no warning is without one.
"""

from typing import Final

_FREE_DISK: Final = "look at the file's folder: its mode, the disk, a read-only file system"
_PORTAL_SPEAKS: Final = "nothing if it was once; else look at the portal's version and log"
_ROOT: Final = "look at the capabilities of the process (postern doctor)"
_NAMES: Final = "look at resolv.conf and hosts of the gateway's host"
_LATER: Final = "nothing: it is tried again; if it goes on, postern doctor"
_BOOT: Final = "ip link and ip rule show what was left; a restart of the service clears it"

REMEDIES: Final[dict[str, str]] = {
    "A file about names is too long: the rest is not used": "shorten it",
    "A name server has no sound address": _NAMES,
    "A new listen address needs a restart": "restart the portal",
    "A relay announces the address of another token's relay": "give each relay its own token and address",
    "A worker ended, this process carries its packets": "nothing if once; else look at memory and the log",
    "An update cannot make a resource of another kind": "remove the resource in the portal and add another",
    "Another table drops the tunnel's traffic": "let the tunnel's device pass in that table",
    "Cannot accept connections for now": "raise the limit of file descriptors (LimitNOFILE, ulimit -n)",
    "Cannot control the host's DNS, trying again": _LATER,
    "Cannot look up names": _NAMES,
    "Cannot masquerade clients by nftables": "install nft, or masquerade by a firewall of your own",
    "Cannot put resolv.conf back": "look at /etc/resolv.conf; its copy lies beside it",
    "Cannot read a file about names": _NAMES,
    "Cannot read the host's addresses": _LATER,
    "Cannot read the token again": "put the token's file back; the one of before is used until the portal refuses it",
    "Cannot remove the nftables table": "nft delete table inet postern_gateway",
    "Cannot remove the policy rules": _BOOT,
    "Cannot say goodbye": "nothing: peers notice within seconds",
    "Cannot set forwarding": "set these sysctls on the host",
    "Cannot set the address of this family": "enable the family on the host, or do without",
    "Cannot store the device id": _FREE_DISK,
    "Cannot take everything back": _BOOT,
    "Cannot tune the device": "nothing: it works, more slowly",
    "Cut off a component that floods the portal": "look at that component's log and version",
    "Dropped messages of others for a connection that is behind": "look at that host's network and load",
    "Dropping a connection that does not read": "look at that host's network and load",
    "Dropping all queued messages": "nothing: what they asked for is asked again",
    "Failed to deserialize message": _PORTAL_SPEAKS,
    "File descriptors limit the connections": "raise the limit of file descriptors (LimitNOFILE, ulimit -n)",
    "Flow for an unknown resource": _PORTAL_SPEAKS,
    "Going on without the log file": _FREE_DISK,
    "Ignoring portal message": _PORTAL_SPEAKS,
    "More tunnel errors in the last minute": "look at the first lines of that reason above",
    "No more names of resources get addresses until a restart": "restart the client",
    "No name server is configured": _NAMES,
    "No worker processes: this one carries all packets": "let the gateway make its device itself",
    "Not serving an address family": "enable the family on the host, or leave its address out",
    "Offload failed and is off now": "postern doctor relay says what the host lacks",
    "Offload is full, further channels stay in user space": "nothing: these cost more; another relay helps",
    "Offload is off": "postern doctor relay says what the host lacks",
    "Others may read the portal's secret": "chmod 600 the file",
    "Others may read tokens or the secret": "chmod 600 the file",
    "Others may read users or rest_secrets": "chmod 600 the file",
    "REST names in milliseconds never end": "give names the time in seconds",
    "Short rest_secrets can be guessed": "make them longer: openssl rand -base64 24",
    "Skipping resource": "look at this resource in the portal",
    "Some settings change only with a restart": "restart the relay when it suits",
    "The kernel does not tell of changes of the network": _ROOT,
    "The portal refused a message": _PORTAL_SPEAKS,
    "The portal's secret cannot be kept": _FREE_DISK,
    "This host's firewall does not see what XDP forwards": "let peers.deny and peers.allow say what it says",
    "Tokens shorter than 16 characters can be guessed": "make them longer: openssl rand -base64 24",
    "Too many connections, the longest silent one goes": "close that address to others by a firewall",
    "Too many devices for one token": "give that place another token, if these are its own devices",
    "Too many listen ports to offload": "listen at eight ports at most",
    "Tunnel error": "nothing if seldom; else docs/operating.md, Troubleshooting",
    "Worker hangs": "nothing: it is ended and started again; if it goes on, report it",
    "Wrong tokens": "look at who is at this address; tell its owner, or close it; a proxy of yours: trusted_proxies",
    "an interface lost its offload": "postern relay admin offload says why; it is tried again",
    "more addresses than the program answers for": "name those that count by ebpf and internal",
    "offload is off, packets are relayed in user space": "postern doctor relay says what the host lacks",
}
