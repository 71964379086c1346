"""The package imports anywhere; what is missing for loading is told in words."""

import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from ebpf import OffloadError, OffloadSettings, doctor, loader
from ebpf.host import own_addresses
from ebpf.netlink import Interface


def test_the_package_imports_without_bcc() -> None:
    script = "import sys; sys.modules['bcc'] = None; import ebpf; print(ebpf.RelayOffload.__name__)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "RelayOffload\n"


def test_importing_the_package_does_not_import_bcc() -> None:
    script = "import sys, ebpf; print('bcc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_loading_without_bcc_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bcc.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(loader, "find_headers", lambda: tmp_path)
    with pytest.raises(OffloadError, match=r"python3-bpfcc.*not here"):
        loader.load(loader.BuildOptions(16, 9))
    monkeypatch.setitem(sys.modules, "bcc", None)
    assert "python3-bpfcc" in doctor.explain()[0]


def test_a_compiler_that_says_nothing_is_told_with_what_it_printed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bcc.py").write_text("import os; os.write(2, b'fatal error: no memory\\n'); os._exit(1)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(loader, "find_headers", lambda: tmp_path)
    with pytest.raises(OffloadError, match="no memory"):
        loader.load(loader.BuildOptions(16, 9))


def test_only_named_flags_reach_the_compiler() -> None:
    sizes = ["-DFLOW_ENTRIES=16", "-DBINDINGS=9"]
    assert loader.BuildOptions(16, 9).flags()[3:] == sizes
    assert loader.BuildOptions(16, 9, poison_headroom=True).flags()[3:] == [*sizes, "-DPOISON_HEADROOM"]


@pytest.mark.parametrize(
    ("capabilities", "missing"),
    [
        (0, ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_PERFMON", "CAP_BPF"]),
        (1 << 12 | 1 << 13 | 1 << 38 | 1 << 39, []),
        (1 << 12 | 1 << 13 | 1 << 21, []),
        (1 << 12 | 1 << 13, ["CAP_PERFMON", "CAP_BPF"]),
    ],
)
def test_missing_privileges_are_named(capabilities: int, missing: list[str]) -> None:
    lines = doctor.missing_capabilities(f"Name:\tx\nCapEff:\t{capabilities:016x}\n")
    assert [line.split()[2] for line in lines] == missing


def test_the_program_answers_for_the_internal_address_or_the_interfaces_own() -> None:
    texts = ("192.0.2.9", "203.0.113.7", "fe80::1", "2001:db8::1")
    interface = Interface("e0", 2, bytes(6), 1500, tuple(ip_address(text) for text in texts), 0)
    public = (ip_address("203.0.113.7"),)
    plain = OffloadSettings(interfaces=("e0",), public=public)
    assert own_addresses(plain, [interface], frozenset()) == (
        (ip_address("203.0.113.7"), ip_address("192.0.2.9"), ip_address("2001:db8::1")),
        {4: ip_address("203.0.113.7"), 6: ip_address("2001:db8::1")},
    )
    behind_nat = OffloadSettings(interfaces=("e0",), public=public, internal=(ip_address("192.0.2.9"),))
    assert own_addresses(behind_nat, [interface], frozenset(public)) == (
        (ip_address("192.0.2.9"), ip_address("2001:db8::1")),
        {4: ip_address("192.0.2.9"), 6: ip_address("2001:db8::1")},
    )


def test_the_program_answers_for_a_public_address_on_another_interface_of_the_host() -> None:
    interface = Interface("e0", 2, bytes(6), 1500, (ip_address("192.0.2.9"),), 0)
    public = (ip_address("203.0.113.7"), ip_address("2001:db8::7"))
    settings = OffloadSettings(interfaces=("e0",), public=public)
    assert own_addresses(settings, [interface], frozenset(public[:1])) == (
        (ip_address("203.0.113.7"), ip_address("192.0.2.9")),
        {4: ip_address("203.0.113.7")},
    )
