"""A Hugging Face hub on the loopback: what the real one answers, refusals word for word, and what it was sent."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

MODEL = "meta-llama/Meta-Llama-3-8B-Instruct"
DATASET = "databricks/databricks-dolly-15k"
TOKEN = "hf_" + "TestOnlyNeverReal0123456789abcdefX"
CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}


@dataclass(frozen=True)
class Reply:
    status: int
    body: Any = ""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def refused(cls, status: int, message: str, code: str = "") -> Reply:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        return cls(status, {"error": message}, headers)


NO_TOKEN = Reply.refused(
    401,
    f"Access to model {MODEL} is restricted. You must have access to it and be authenticated to access it. Please log in.",
    "GatedRepo",
)
NOT_ACCEPTED = Reply.refused(
    403,
    f"Access to model {MODEL} is restricted and you are not in the authorized list. Visit the page to ask for access.",
    "GatedRepo",
)
AWAITING = Reply.refused(
    403,
    f"Your request to access model {MODEL} is awaiting a review from the repo authors.",
    "GatedRepo",
)
REJECTED = Reply.refused(
    403, f"Your request to access model {MODEL} has been rejected by the repo's authors.", "GatedRepo"
)
FINE_GRAINED = Reply.refused(
    403,
    "Please enable access to public gated repositories in your fine-grained token settings to view this repository.",
)
BAD_TOKEN = Reply.refused(401, "Invalid credentials in Authorization header")
NOT_FOUND = Reply.refused(404, "Repository not found", "RepoNotFound")
NO_REVISION = Reply.refused(404, "Invalid rev id: nowhere", "RevisionNotFound")
TOO_MANY = Reply.refused(429, "We had to rate limit your IP")
HANG = Reply(0)


class HubServer:
    """A context manager. `answers` maps the beginning of a path to a reply, the longest that fits counts."""

    def __init__(self) -> None:
        self.answers: dict[str, Reply] = {}
        self.asked: list[tuple[str, str]] = []
        self._released = threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append((self.path, self.headers.get("Authorization", "")))
                hub._answer(self)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()

    def healthy(self) -> None:
        """A gated model that the token may read, and dolly."""
        sizes = {f"model-0000{n}-of-00004.safetensors": 4_000_000_000 for n in range(1, 5)}
        siblings = [{"rfilename": name, "size": size} for name, size in {**sizes, "config.json": 600}.items()]
        self.answers |= {
            "/api/whoami-v2": Reply(200, {"name": "me", "auth": {"accessToken": {"role": "read"}}}),
            f"/api/models/{MODEL}/revision/main": Reply(200, {"gated": "manual", "siblings": siblings}),
            f"/{MODEL}/resolve/main/config.json": Reply(200, CONFIG),
            f"/{MODEL}/resolve/main/tokenizer_config.json": Reply(200, {"chat_template": "{{ messages }}"}),
            f"/api/datasets/{DATASET}": Reply(200, {"siblings": [{"rfilename": "dolly.jsonl", "size": 99}]}),
            f"/datasets/{DATASET}/resolve/main/dolly.jsonl": Reply(
                200, '{"instruction": "a", "context": "", "response": "b", "category": "c"}\n{"instr'
            ),
        }

    def refuse_model(self, reply: Reply) -> None:
        """What the model's files are answered with; its description can be read all the same."""
        self.answers[f"/{MODEL}/resolve/main/config.json"] = reply
        self.answers[f"/{MODEL}/resolve/main/tokenizer_config.json"] = reply

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        fitting = [begin for begin in self.answers if path.startswith(begin)]
        reply = self.answers[max(fitting, key=len)] if fitting else NOT_FOUND
        if reply is HANG:
            self._released.wait(60)
            return
        body = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
        handler.send_response(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body.encode())))
        handler.end_headers()
        handler.wfile.write(body.encode())
