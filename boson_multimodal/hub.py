"""Names what stands between this machine and the hub: a proxy, a certificate, the offline mode, a cache."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants, get_session

# The base of all errors of the HTTP library that the hub's client uses. Which library that is depends on its version.
from huggingface_hub.errors import HTTPError

from boson_multimodal.circumstances import why_there_is_no_home
from boson_multimodal.errors import InputError

PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
SWITCHES = ("HF_ENDPOINT", "HF_HUB_OFFLINE", "SSL_CERT_FILE")
"""Other variables that decide whether the hub is reached."""


@contextmanager
def hub_access(flag: str, path_or_id: str) -> Iterator[None]:
    """Check the settings of the network before the hub is asked, and name errors of the connection.

    Args:
        flag: the flag that gave ``path_or_id``, for the messages.
        path_or_id: a hub id; for a folder nothing is checked.

    Raises:
        InputError: naming the flag, the variables that are set, and the remedy.
    """
    what = f"{flag} {path_or_id}"
    if not os.path.isdir(os.path.expanduser(path_or_id)):
        require_connection(what)
    try:
        yield
    except (HTTPError, ConnectionError) as error:
        raise InputError(f"{what}: the hub cannot be reached ({type(error).__name__}{network_settings()})") from error


def require_connection(what: str) -> None:
    """Raise :class:`InputError` if the variables of the network or of the hub's cache cannot work."""
    if constants.HF_HUB_OFFLINE:
        return
    problem = cache_problem() or proxy_problem()
    if problem is not None:
        raise InputError(f"{what}: {problem}")
    try:
        get_session()
    except (ValueError, ImportError, OSError) as error:
        raise InputError(f"{what}: no connection can be made ({error}{network_settings()})") from error


def cache_problem() -> str | None:
    """Return why downloads have no place, or None."""
    if Path(constants.HF_HUB_CACHE).parts[:1] == ("~",):
        return f"the hub's cache is {constants.HF_HUB_CACHE}, but {why_there_is_no_home()}; or set HF_HOME to a folder"
    return None


def proxy_problem() -> str | None:
    """Return what is wrong with a variable that names a proxy, or None."""
    for name, value in _proxies().items():
        address = value if "://" in value else f"http://{value}"
        shown = f"{name}={without_password(value)}"
        try:
            parts = urlsplit(address)
            is_complete = parts.hostname is not None and parts.port != 0
        except ValueError:  # a port that is no number
            is_complete = False
        if not is_complete or not address.isprintable() or " " in address:
            return f"{shown} is not the address of a proxy; set it to http://HOST:PORT, or unset it"
        if parts.scheme not in PROXY_SCHEMES:
            return f"{shown}: a proxy must begin with one of {', '.join(f'{s}://' for s in PROXY_SCHEMES)}; or unset it"
        if parts.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
            return f"{shown} is a SOCKS proxy, which needs a package: pip install socksio; or unset {name}"
    return None


def network_settings() -> str:
    """Return the variables that are set, as the end of a message; an empty text if there is none."""
    found = [f"{name}={without_password(value)}" for name, value in _proxies().items()]
    found += [f"{name}={without_password(os.environ[name])}" for name in SWITCHES if os.environ.get(name)]
    return f"; {', '.join(found)}" if found else ""


def without_password(address: str) -> str:
    """Return an address in which ``***`` stands for the name and the password of a user."""
    start, separator, rest = address.rpartition("@")
    if not separator:
        return address
    scheme = start.partition("://")[0] + "://" if "://" in start else ""
    return f"{scheme}***@{rest}"


def _proxies() -> dict[str, str]:
    """Return the variables that name a proxy. Lower-case names come first, because libraries take those first."""
    exceptions = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    if "*" in exceptions.replace(" ", "").split(","):
        return {}
    found = {}
    for upper in PROXY_VARIABLES:
        name = next((name for name in (upper.lower(), upper) if os.environ.get(name)), None)
        if name is not None:
            found[name] = os.environ[name]
    return found
