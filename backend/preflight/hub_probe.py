"""Runs on the host: asks the Hugging Face hub what the download will ask, and says what it answered.

The token is read here, from its own file, and goes to the hub's host alone: into no argument, variable or output, and
along with no redirection to another host.
"""

from __future__ import annotations

import csv
import http.client
import json
import os
import re
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# Bytes. The list of a repository's files is read here; a file's text goes back over the wire.
BODY_LIMIT = 32 * 1024 * 1024
FILE_LIMIT = 1024 * 1024
SAMPLE = 256 * 1024
_TOKEN = re.compile(r"hf_[A-Za-z0-9]+")


class SameHostOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirections, to another host without the token (files lie on a content network)."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None:
            old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
            if (old.scheme, old.netloc) != (new.scheme, new.netloc):
                following.remove_header("Authorization")
        return following


class Hub:
    """The hub at one address, asked as one account."""

    def __init__(self, endpoint: str, token: str, patience: float) -> None:
        self.endpoint = endpoint
        self.token = token
        self.patience = patience
        self._opener = urllib.request.build_opener(SameHostOnly)

    def get(self, path: str, limit: int = BODY_LIMIT, part: bool = False) -> dict[str, Any]:
        """{"status", "body"}; after a refusal {"status", "code", "said"}; without an answer {"status": 0, "said"}."""
        headers = {"User-Agent": "llama-tui"}
        if self.token:
            headers["Authorization"] = "Bearer " + self.token
        if part:
            headers["Range"] = f"bytes=0-{limit - 1}"
        try:
            request = urllib.request.Request(self.endpoint + path, headers=headers)
            with self._opener.open(request, timeout=self.patience) as reply:
                body = reply.read(limit).decode("utf-8", "replace")
                return {"status": reply.status, "body": body}
        except urllib.error.HTTPError as error:
            return {
                "status": error.code,
                "code": error.headers.get("X-Error-Code") or "",
                "said": self.without_token(_message(error)),
            }
        except (OSError, http.client.HTTPException, ValueError) as error:
            return {"status": 0, "said": self.without_token(_network_words(error))}

    def without_token(self, text: str) -> str:
        """Whatever the other end says back, the token is not in it."""
        if self.token:
            text = text.replace(self.token, "(the token)")
        return _TOKEN.sub("(a token)", text)[:400]


def _message(error: urllib.error.HTTPError) -> str:
    said = error.headers.get("X-Error-Message") or ""
    if not said:
        try:
            said = str(json.loads(error.read(4096).decode("utf-8", "replace")).get("error") or "")
        except (OSError, http.client.HTTPException, ValueError, AttributeError):
            said = ""
    return said or str(error.reason)


def _network_words(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return "its certificate is not trusted here: " + str(getattr(reason, "verify_message", reason))
    text = str(reason) or type(reason).__name__
    return "no answer in time" if "timed out" in text else text


def read_token(path: str) -> dict[str, Any]:
    """{"there", "mode", "token"}: `token` stays in this process."""
    try:
        mode = os.stat(path).st_mode & 0o777
        with open(path, encoding="utf-8", errors="replace") as stream:
            token = stream.read(4096).strip()
    except FileNotFoundError:
        return {"there": False, "mode": 0, "token": ""}
    whole = re.fullmatch(r"[\x21-\x7e]+", token) is not None
    return {"there": bool(token), "mode": mode, "token": token if whole else ""}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What the hub says of the token, the model and the data set that are asked for, each in time or not at all."""
    endpoint = (os.environ.get("HF_ENDPOINT") or request["endpoint"]).rstrip("/")
    found = read_token(request["token_file"])
    hub = Hub(endpoint, found.pop("token"), request["patience"])
    questions: dict[str, Callable[[], Any]] = {}
    if found["there"]:
        questions["whoami"] = lambda: _whoami(hub)
    if request.get("model"):
        name, revision = request["model"], urllib.parse.quote(request["revision"] or "main", safe="")
        questions["model"] = partial(_model, hub, f"/api/models/{name}/revision/{revision}?blobs=true")
        for file in ("config.json", "tokenizer_config.json"):
            questions[file] = partial(hub.get, f"/{name}/resolve/{revision}/{file}", FILE_LIMIT)
    if request.get("dataset"):
        questions["dataset"] = lambda: _dataset(hub, request["dataset"], request["split"])
    if not questions:
        questions["model"] = lambda: hub.get("/api/models?limit=1")
    answers = _all(questions, request["deadline"])
    return {"endpoint": endpoint, "token": found, "answers": answers}


def _all(questions: dict[str, Callable[[], Any]], deadline: float) -> dict[str, Any]:
    answers: dict[str, Any] = {}

    def put(name: str, question: Callable[[], Any]) -> None:
        try:
            answers[name] = question()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            answers[name] = {
                "status": 0,
                "said": f"an answer that is not understood ({type(error).__name__})",
            }

    threads = [threading.Thread(target=put, args=pair, daemon=True) for pair in questions.items()]
    for thread in threads:
        thread.start()
    end = time.monotonic() + deadline
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return {name: answers.get(name) or {"status": 0, "said": "no answer in time"} for name in questions}


def _parsed(reply: dict[str, Any]) -> dict[str, Any]:
    """The JSON object of a reply; empty when it is none."""
    try:
        data = json.loads(reply.pop("body", ""))
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _whoami(hub: Hub) -> dict[str, Any]:
    reply = hub.get("/api/whoami-v2")
    access = (_parsed(reply).get("auth") or {}).get("accessToken") or {}
    reply["role"] = hub.without_token(str(access.get("role") or ""))
    fine_grained = access.get("fineGrained") or {}
    reply["reads_gated"] = (
        fine_grained.get("canReadGatedRepos") if access.get("role") == "fineGrained" else None
    )
    return reply


def _repository(hub: Hub, path: str) -> dict[str, Any]:
    reply = hub.get(path)
    data = _parsed(reply)
    reply["gated"] = bool(data.get("gated"))
    reply["files"] = {
        str(one.get("rfilename")): int(one.get("size") or 0)
        for one in data.get("siblings") or []
        if isinstance(one, dict)
    }
    reply["card"] = data.get("cardData") or {}
    return reply


def _model(hub: Hub, path: str) -> dict[str, Any]:
    reply = _repository(hub, path)
    del reply["card"]
    # What lies deeper is not downloaded, and may be long.
    reply["files"] = {name: size for name, size in reply["files"].items() if "/" not in name}
    return reply


def _dataset(hub: Hub, name: str, split: str) -> dict[str, Any]:
    """The repository's answer, with `fields` where they can be seen without a download."""
    reply = _repository(hub, f"/api/datasets/{name}")
    fields = _described(reply.pop("card"))
    plain = [file for file in reply.pop("files") if file.lower().endswith((".jsonl", ".json", ".csv"))]
    plain.sort(key=lambda file: (split not in file, file.count("/"), file))
    if reply["status"] == 200 and not fields and plain:
        sample = hub.get(f"/datasets/{name}/resolve/main/{urllib.parse.quote(plain[0])}", SAMPLE, part=True)
        if sample["status"] not in (200, 206):
            return dict(reply, **sample)
        fields = fields_of(sample["body"], plain[0])
    reply["fields"] = fields
    return reply


def _described(card: Any) -> list[str]:
    """The columns that a data set's card names; of several configurations the first one's."""
    info = card.get("dataset_info") if isinstance(card, dict) else None
    first = info[0] if isinstance(info, list) and info else info
    features = first.get("features") if isinstance(first, dict) else None
    return [str(one.get("name")) for one in features or [] if isinstance(one, dict)]


def fields_of(text: str, file: str) -> list[str]:
    """The columns of the first record in the beginning of a file; empty when there is no whole one."""
    text = text.lstrip("\ufeff")
    if file.lower().endswith(".csv"):
        return next(csv.reader(text.splitlines()[:1]), [])
    try:
        record, _ = json.JSONDecoder().raw_decode(text.lstrip().lstrip("[").lstrip())
    except ValueError:
        return []
    return [str(name) for name in record] if isinstance(record, dict) else []
