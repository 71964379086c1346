#!/usr/bin/env bash
# Makes a fresh Debian 12 ready: Debian packages, the virtual environment at .venv, the locked Python packages.
# Idempotent; when nothing changed it only compares a hash and asks dpkg.
set -euo pipefail
cd "$(dirname "$0")/.."

python=/usr/bin/python3 # Debian's: python3-bpfcc binds to no other
stamp=.venv/.setup-stamp

# bcc and the headers it compiles against, the virtual environment, and what the lab and the tests call.
packages=(
    python3-bpfcc "linux-headers-$(dpkg --print-architecture)"
    python3-venv ca-certificates
    iproute2 nftables ethtool procps iputils-ping tcpdump curl iperf3
    wireguard-go wireguard-tools xz-utils
    dnsmasq-base bind9-dnsutils
    gcc libc6-dev # for the compiled helper; the C headers of the XDP program are tested on the host, too
    clang-14 libclang-rt-14-dev # and fuzzed there
    clang-format-14
)

absent() { # the packages that dpkg does not hold installed
    local name
    for name in "${packages[@]}"; do
        grep -qx "$name installed" <<<"$installed" || echo "$name"
    done
}
installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${packages[@]}" 2>/dev/null || true)
mapfile -t missing < <(absent)

if [ "${#missing[@]}" -gt 0 ]; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "setup: not root, so these Debian packages stay missing: ${missing[*]}" >&2
    else
        echo "setup: installing ${missing[*]}" >&2
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
    fi
fi

wanted=$( (pwd; "$python" --version; cat pyproject.toml requirements.lock lab/setup.sh) | sha256sum | cut -d' ' -f1)
helper() { # optional: without it Python does the work
    .venv/bin/python connectivity/native/build.py || true
}
if [ -x .venv/bin/postern ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    helper
    exit 0
fi
echo "setup: making .venv, which takes a minute or more" >&2
# System site packages, because bcc's binding comes from Debian; everything else is pinned newer in the lock.
[ -x .venv/bin/python ] || "$python" -m venv --system-site-packages .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
# A path, not an import hook: the hook costs each start of a process 35 ms.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --config-settings editable_mode=compat -e .
helper
echo "$wanted" >"$stamp"
