"""Who is asking, and whether they may."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import web

from thinkscale.errors import NotAllowed
from thinkscale.store.keys import Key, KeyStore

_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via")


@lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """Whether an address or a name is this machine's own."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Access:
    """Finds the caller's key. Where the server listens on loopback only and `require_key` is off, callers on this
    machine need none; `trusting` says whether that is so.

    A web page of another site, open in a browser here, is no caller on this machine, nor is whoever a proxy here
    forwards: their requests show it in the headers Origin, Host, Via and X-Forwarded-…. A proxy that adds none of these
    hides who asks: behind one, `require_key` must be on.
    """

    def __init__(self, keys: KeyStore, *, host: str, require_key: bool) -> None:
        self.trusting = is_loopback(host) and not require_key
        self._keys = keys

    async def caller(self, http: web.Request) -> Key | None:
        """The caller's key, `None` for one on this machine without. Raises `NotAllowed`."""
        kind, _, secret = http.headers.get("Authorization", "").partition(" ")
        secret = secret.strip() if kind.lower() == "bearer" else ""
        trusted = self.trusting and _is_local(http)
        if secret:
            key = await self._keys.find(secret)
            if key is not None:
                return key
            # Clients that insist on a key send anything to a local server; one of ours that is wrong is a mistake.
            if not trusted or secret.startswith("ts-"):
                raise NotAllowed("the key is not known here, or was revoked", known=False)
        if not trusted:
            raise NotAllowed("a key is needed: send it as `Authorization: Bearer KEY`", known=False)
        return None

    async def admin(self, http: web.Request) -> None:
        """Let admins pass. Raises `NotAllowed`."""
        key = await self.caller(http)
        if key is not None and not key.admin:
            raise NotAllowed(
                f"the key {key.name} is no admin's: `thinkscale keys add NAME --admin` makes one", known=True
            )


def _is_local(http: web.Request) -> bool:
    headers = http.headers
    if not is_loopback(http.remote or "") or any(name in headers for name in _FORWARDED):
        return False
    try:
        host = urlsplit(f"//{headers.get('Host', '')}")
        origin = urlsplit(headers["Origin"]).netloc if "Origin" in headers else host.netloc
    except ValueError:
        return False
    return is_loopback(host.hostname or "") and origin == host.netloc
