"""Which pages a browser may send requests from: the server's own, and those that --allowed_origins names.

Any page that is open on a computer can post to its 127.0.0.1, and by a name of its own that is made to lead there (DNS
rebinding) it can read the answer too. Clients that are no browsers send no Origin, and are not concerned.
"""

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from resnet_keras.serving.options import is_loopback


class OwnPages:
    """An ASGI application behind a check of the headers Host and Origin; what does not pass gets 403.

    Args:
        application: what it stands before.
        host: the address that the server listens at. At a loopback address, Host must name one.
        allowed: origins besides the server's own, as `https://page.example`; `*` for all.
    """

    def __init__(self, application: ASGIApp, host: str, allowed: Sequence[str]) -> None:
        self._application, self._host, self._allowed = application, host, {origin.lower() for origin in allowed}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fault = self._fault(scope) if scope["type"] == "http" else None
        if fault is None:
            await self._application(scope, receive, send)
        else:
            await Response(fault, 403, media_type="text/plain")(scope, receive, send)

    def _fault(self, scope: Scope) -> str | None:
        headers = {name: value.decode("latin-1").lower() for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if host and is_loopback(self._host) and not self._names_loopback(host):
            return f"this server is {self._host}, not {host}; --host admits others\n"
        if origin is None or "*" in self._allowed or origin in self._allowed or urlsplit(origin).netloc == host:
            return None
        return f"pages of {origin} may not send requests; --allowed_origins admits them\n"

    def _names_loopback(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name == self._host.lower() or is_loopback(name)
