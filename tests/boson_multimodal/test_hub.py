"""Test the messages about proxies and other settings of the network. No test reaches a network."""

from pathlib import Path
from typing import Any

import pytest

from boson_multimodal import checkpoints, hub
from boson_multimodal.checkpoints import resolve_checkpoint
from boson_multimodal.errors import InputError

CLOSED_PORT = "127.0.0.1:9"
"""An address at which nobody listens."""


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of the network is set, and the hub is at a closed port."""
    for name in (*hub.PROXY_VARIABLES, *hub.SWITCHES, "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "get_session", lambda: None)


def refusal() -> str:
    with pytest.raises(InputError) as caught:
        resolve_checkpoint("someone/some-model", "main", "--model_path", ())
    message = str(caught.value)
    assert message.startswith("--model_path someone/some-model: ")
    return message


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "ALL_PROXY",
            f"socks5://me:secret@{CLOSED_PORT}",
            f"ALL_PROXY=socks5://***@{CLOSED_PORT} is a SOCKS proxy",
        ),
        ("all_proxy", f"socks5h://{CLOSED_PORT}", "pip install socksio; or unset all_proxy"),
        ("HTTPS_PROXY", "ftp://proxy:1", "HTTPS_PROXY=ftp://proxy:1: a proxy must begin with one of http://, https://"),
        ("HTTP_PROXY", "socks4://proxy:1", "HTTP_PROXY=socks4://proxy:1: a proxy must begin with one of"),
        ("HTTPS_PROXY", "http://proxy:99999", "is not the address of a proxy; set it to http://HOST:PORT, or unset it"),
        ("HTTPS_PROXY", "proxy:port", "HTTPS_PROXY=proxy:port is not the address of a proxy"),
        ("HTTPS_PROXY", "http://", "HTTPS_PROXY=http:// is not the address of a proxy"),
        ("https_proxy", "http://a b:1", "https_proxy=http://a b:1 is not the address of a proxy"),
        ("https_proxy", "http://me:se@cret@[::1", "https_proxy=http://***@[::1 is not the address of a proxy"),
    ],
)
def test_a_proxy_that_cannot_work_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv(name, value)
    found = refusal()
    assert message in found and "secret" not in found and "cret" not in found


@pytest.mark.parametrize(
    "value", ["proxy", "proxy:3128", "http://proxy:3128", "https://me:secret@proxy", "http://[::1]:1"]
)
def test_right_proxies_are_accepted(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    assert hub.proxy_problem() is None


def test_a_socks_proxy_is_right_with_its_package_or_if_no_host_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy:1")
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda _: None)
    assert hub.proxy_problem() is not None
    monkeypatch.setenv("NO_PROXY", "localhost, *")
    assert hub.proxy_problem() is None
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda _: object())
    assert hub.proxy_problem() is None


def test_what_is_in_the_cache_needs_no_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    asked: list[dict[str, Any]] = []

    def download(repo_id: str, **settings: Any) -> str:
        asked.append(settings)
        return str(tmp_path)

    monkeypatch.setattr(checkpoints, "snapshot_download", download)
    monkeypatch.setenv("ALL_PROXY", "ftp://proxy:1")
    assert resolve_checkpoint("someone/some-model", "main", "--model_path", ()) == tmp_path
    assert [settings["local_files_only"] for settings in asked] == [True]


def test_a_hub_that_cannot_be_reached_names_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(repo_id: str, **_: Any) -> None:
        raise checkpoints.HTTPError("connection refused")

    monkeypatch.setattr(checkpoints, "snapshot_download", unreachable)
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy:1")
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror")
    message = refusal()
    assert "the hub cannot be reached (HTTPError; HTTPS_PROXY=http://***@proxy:1, HF_ENDPOINT=http://mirror)" in message
    assert "secret" not in message


def test_a_certificate_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_certificate() -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(hub, "get_session", no_certificate)
    monkeypatch.setenv("SSL_CERT_FILE", "/no/cert.pem")
    assert "no connection can be made ([Errno 2] No such file or directory; SSL_CERT_FILE=/no/cert.pem)" in refusal()


def test_a_cache_without_a_home_or_without_room_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(repo_id: str, **settings: Any) -> None:
        if settings.get("local_files_only"):
            raise checkpoints.LocalEntryNotFoundError("not here")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "snapshot_download", full)
    expected = f"cannot be downloaded into the hub's cache {tmp_path / 'hub'} ([Errno 28] No space left on device)"
    assert expected in refusal()
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", "~/.cache/huggingface/hub")
    message = refusal()
    assert "the hub's cache is ~/.cache/huggingface/hub, but HOME is not set" in message
    assert "or set HF_HOME to a folder" in message


def test_errors_of_the_connection_are_named_where_a_library_downloads() -> None:
    with (
        pytest.raises(InputError, match=r"^--x a/b: the hub cannot be reached \(HTTPError\)$"),
        hub.hub_access("--x", "a/b"),
    ):
        raise hub.HTTPError("timed out")
    with pytest.raises(ValueError, match="^not of the network$"), hub.hub_access("--x", "a/b"):
        raise ValueError("not of the network")
