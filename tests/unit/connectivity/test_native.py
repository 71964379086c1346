"""The compiled helper is found, chosen or refused with its reason; what it is compared with is a property's affair."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectivity import accelerator, native
from connectivity.io.tunnel_settings import TunnelSettings, read_tunnel_settings
from connectivity.ip.packet import MAX_PACKET_BYTES
from connectivity.native import build
from connectivity.settings import SettingsError, SettingsReader
from postern.doctor import host
from tests.documented import ROOT
from tests.helper import made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("native"))


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    with accelerator.using(accelerator.current):
        yield


def test_it_compiles_without_a_warning_and_loads(folder: Path) -> None:
    assert native.load(folder).stretch(memoryview(b"no packet"), 0, 9) == 0


def test_what_was_never_compiled_is_said(tmp_path: Path) -> None:
    with pytest.raises(native.NoHelper, match=r"the helper is not compiled: there is no helper\.so in"):
        native.load(tmp_path)


def test_one_of_other_sources_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "digest", lambda: "other")
    with pytest.raises(native.NoHelper, match="was compiled from other sources"):
        native.load(folder)


def test_one_for_another_machine_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / build.INTERFACE).write_bytes((folder / build.INTERFACE).read_bytes())
    (tmp_path / build.LIBRARY).write_bytes(b"\x7fELF and nothing more")
    with pytest.raises(native.NoHelper, match="cannot load"):
        native.load(tmp_path)


def test_a_cipher_that_is_not_wireguards_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectivity.native.helper.Cipher.seal", lambda *_: True)  # and the output is zeros
    with pytest.raises(native.NoHelper, match="the helper's cipher is not WireGuard's"):
        native.load(folder)


def test_a_compiler_that_is_missing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "BUILT", tmp_path)
    monkeypatch.setattr(build, "_COMPILERS", ("no-such-compiler",))
    monkeypatch.delenv("CC", raising=False)
    assert build.main() == 1
    assert capsys.readouterr().err == "the helper is not compiled, Python does its work: there is no C compiler\n"


def test_what_is_current_is_not_compiled_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "BUILT", folder)
    monkeypatch.setattr(build, "_COMPILERS", ())
    monkeypatch.delenv("CC", raising=False)
    assert build.main() == 0
    monkeypatch.setattr("platform.machine", lambda: "another")
    assert build.main() == 1


def test_the_choice_is_carried_out_and_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, folder: Path, tmp_path: Path
) -> None:
    helper = native.load(folder)
    caplog.set_level(logging.INFO, "connectivity.native")
    monkeypatch.setattr(native, "load", lambda: helper)
    native.choose("auto")
    assert accelerator.current is helper
    native.choose("off")
    assert accelerator.current is None
    monkeypatch.undo()
    monkeypatch.setattr(native.load, "__defaults__", (tmp_path,))
    accelerator.use(helper)
    native.choose("auto")
    assert accelerator.current is None
    said = [(record.getMessage(), getattr(record, "fields", {}).get("reason", "")[:26]) for record in caplog.records]
    assert said == [
        ("Runs are handled by the compiled helper", ""),
        ("Runs are handled in Python", "POSTERN_NATIVE=off"),
        ("Runs are handled in Python", "the helper is not compiled"),
    ]


def _settings(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> TunnelSettings:
    monkeypatch.setenv("FIREZONE_TOKEN", "t" * 20)
    reader = SettingsReader("gateway", list(arguments))
    found = read_tunnel_settings(
        reader, "gateway", token=None, default_api_url="wss://portal.example", raise_limits_by_default=True
    )
    reader.finish()
    return found


def test_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POSTERN_NATIVE", raising=False)
    assert _settings(monkeypatch).native == "auto"
    assert _settings(monkeypatch, "--native", "off").native == "off"
    monkeypatch.setenv("POSTERN_NATIVE", "always")
    with pytest.raises(SettingsError, match=r"POSTERN_NATIVE.*expected auto or off"):
        _settings(monkeypatch)


def test_the_doctor_says_why_python_does_the_work(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native.load, "__defaults__", (folder,))
    assert host.compiled_helper() == []
    monkeypatch.setattr(native.load, "__defaults__", (tmp_path,))
    (found,) = host.compiled_helper()
    assert not found.hinders
    assert found.what.startswith("Python does its work: the helper is not compiled")


def test_a_process_with_connections_ends_in_order(folder: Path) -> None:
    """Whatever goes first when the process ends: what has loaded the helper, or the keys that it has to free."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom connectivity import accelerator, native\n"
        "from tests.unit.test_hot_path_memory import Pipe\n"
        "helper = native.load(Path(sys.argv[1]))\n"
        "with accelerator.using(helper):\n"
        "    pipe = Pipe(direct=True, count=3, size=100)\n"
        "    pipe.carry(1)\n"
        "assert pipe.arrived\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder)], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0


def test_both_languages_know_one_mtu() -> None:
    header = (build.FOLDER / "native.h").read_text(encoding="utf-8")
    assert f"#define MAX_PACKET_BYTES {MAX_PACKET_BYTES}\n" in header
