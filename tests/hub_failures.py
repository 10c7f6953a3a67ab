"""
What goes wrong on the way to the Hub, asked for by a test, and the list of the requests that came.

`POST /_double/failures` takes a list of failures, each for the first `times` (1) requests, after `skip` (0) others,
whose method and path match it: `{"match": "PUT /_lfs/", "do": ...}`, where `do` is

* `answer`: answer with `status` and `headers`, and do nothing else;
* `cut`: cut the connection while the request is coming in;
* `lose`: do what is asked, and cut the connection before the answer;
* `call`: another request comes first, of this double, with the method, path, headers and body in `call`.

`GET /_double/failures` answers with what is left of them, their `times` counted down, and `GET /_double/log` with the
requests so far: `call` (method and path), `query`, `status`.
"""

import json
import re
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Failures:
    def __init__(self, app: ASGIApp):
        self.app = app
        self.failures: list[dict[str, Any]] = []
        self.log: list[dict[str, Any]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Routes see the path as sent: a revision may hold an encoded slash.
        scope["path"] = scope["raw_path"].decode()
        if scope["path"] == "/_double/log":
            await JSONResponse(self.log)(scope, receive, send)
        elif scope["path"] == "/_double/failures":
            if scope["method"] == "POST":
                self.failures = json.loads(await _body(receive))
            await JSONResponse(self.failures)(scope, receive, send)
        else:
            await self.answer(scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = f"{scope['method']} {scope['path']}"
        entry: dict[str, Any] = {"call": call, "query": scope["query_string"].decode(), "status": None}
        self.log.append(entry)

        async def noted(message: Message) -> None:
            entry["status"] = message.get("status", entry["status"])
            await send(message)

        failure = self.failure_for(call)
        if failure["do"] == "answer":
            body = {"error": "as the test asked for"}
            await JSONResponse(body, failure["status"], failure.get("headers"))(scope, receive, noted)
        elif failure["do"] in ("cut", "lose"):
            await (self.app(scope, receive, _nobody) if failure["do"] == "lose" else receive())
            # An answer shorter than it says: the server closes the connection, the rest of the request unread.
            await send({"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"9")]})
        else:
            if failure["do"] == "call":
                await self.call(scope, **failure["call"])
            await self.app(scope, receive, noted)

    def failure_for(self, call: str) -> dict[str, Any]:
        for failure in self.failures:
            if re.match(failure["match"], call):
                if failure.get("skip", 0) > 0:
                    failure["skip"] -= 1
                elif failure.setdefault("times", 1) > 0:
                    failure["times"] -= 1
                    return failure
        return {"do": "nothing"}

    async def call(self, scope: Scope, method: str, path: str, headers: dict[str, str], body: str) -> None:
        async def receive() -> Message:
            return {"type": "http.request", "body": body.encode(), "more_body": False}

        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        call = {"method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "headers": raw}
        await self.app({**scope, **call}, receive, _nobody)


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def _nobody(message: Message) -> None:
    pass
