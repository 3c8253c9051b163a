"""The Hugging Face hub, as the host sees it: that it answers, whose token it is, and what that may read."""

from __future__ import annotations

from llama_tui.backend.errors import HostError
from llama_tui.backend.preflight.check import Outcome, failed, passed, skipped, warned
from llama_tui.backend.preflight.facts import Answer, Facts, HubAnswers

NOT_NEEDED = "nothing comes from the hub"
UNHEARD = "the hub gave no answer"
_GIVE_TOKEN = "`llama-tui token`, or the wizard's Token step"


def hub_answers(facts: Facts) -> Outcome:
    """Any answer of the hub to the host, even a refusal."""
    found = facts.hub()
    if found is None:
        return skipped(NOT_NEEDED)
    host = facts.site.link.greeting.host
    answers = list(found.answers.values())
    if any(answer.status == 429 for answer in answers):
        return warned(
            f"{found.endpoint} answered `too many requests`", "wait a few minutes before the launch"
        )
    broken = [answer for answer in answers if answer.status >= 500]
    if broken:
        return warned(f"{found.endpoint} has trouble: it answered {broken[0].status}", "try again in a while")
    heard = [answer for answer in answers if answer.status]
    if heard:
        return passed(f"{found.endpoint} answers {host}")
    return failed(
        f"{found.endpoint} cannot be reached from {host}: {answers[0].said}",
        f"check the host's way out (a proxy? a VPC without internet?): `curl -I {found.endpoint}`",
    )


def token_is_valid(facts: Facts) -> Outcome:
    """The hub knows whose token it is; the token itself stays on the host."""
    found = facts.hub()
    if found is None:
        return skipped(NOT_NEEDED)
    answer = found.get("whoami")
    if answer is None:
        return skipped("none was given; only gated models and data sets need one")
    if found.token_mode & 0o077:
        return failed(
            f"others on the host can read the token's file (mode {found.token_mode:03o})",
            f"chmod 600 {facts.plan.workspace.token}, and make a new token if others are there",
        )
    if answer.status == 401:
        return failed(
            "the hub refuses the token: it is wrong, expired or revoked",
            f"make a new one on {found.endpoint}/settings/tokens and give it: {_GIVE_TOKEN}",
        )
    if answer.status == 429:
        return warned(
            "the hub does not say now whose token it is (too many requests)", "try again in a while"
        )
    if not answer.ok:
        return skipped(f"{UNHEARD}: {answer.said}")
    role = str(answer.data.get("role") or "")
    return passed(
        "the hub knows it" + (f": {'fine-grained' if role == 'fineGrained' else role}" if role else "")
    )


def refusal_of(facts: Facts, found: HubAnswers, answer: Answer, name: str, kind: str = "model") -> Outcome:
    """Why the hub does not let the host read a model or data set, with the page that mends it."""
    page = f"{found.endpoint}/{'datasets/' if kind == 'dataset' else ''}{name}"
    tokens = f"{found.endpoint}/settings/tokens"
    said = answer.said.lower()
    what = "data set" if kind == "dataset" else "model"
    if answer.status == 429:
        return warned("the hub answered `too many requests`", "wait a few minutes and look again")
    if "fine-grained" in said or "fine grained" in said:
        return failed(
            f"the token may not read gated repositories such as {name}: it is fine-grained, without that permission",
            f"on {tokens} edit it: `Read access to contents of all public gated repos you can access`",
        )
    if answer.code == "GatedRepo" or (answer.status == 403 and "gated" in said):
        return _gated(found, answer, name, page, tokens)
    if answer.code == "RevisionNotFound":
        return failed(
            f"{name} has no revision {facts.settings.model.revision!r}",
            f"see {page}, or empty model.revision",
        )
    if answer.status in {401, 404}:
        hint = (
            "check its name"
            if found.token_there
            else f"check its name; if it is private, give a token: {_GIVE_TOKEN}"
        )
        if answer.status == 401 and found.token_there:
            hint = f"make a new token on {tokens} and give it: {_GIVE_TOKEN}"
        return failed(f"the hub knows no {what} {name} that this token may see", f"{hint} ({page})")
    if answer.status == 0:
        return skipped(f"{UNHEARD}: {answer.said}")
    return warned(
        f"the hub answered {answer.status} for {name}: {answer.said}", f"try again in a while; see {page}"
    )


def _gated(found: HubAnswers, answer: Answer, name: str, page: str, tokens: str) -> Outcome:
    said = answer.said.lower()
    if not found.token_there:
        return failed(
            f"{name} is gated and no token was given",
            f"make a token on {tokens}, accept the licence on {page}, then: {_GIVE_TOKEN}",
        )
    whoami = found.get("whoami")
    if whoami is not None and whoami.status == 401:
        return failed(
            f"{name} is gated and the token is not valid", f"make a new one on {tokens}: {_GIVE_TOKEN}"
        )
    if "awaiting" in said or "pending" in said:
        return failed(
            f"access to {name} was asked for and is not granted yet",
            f"wait for its owners; {found.endpoint}/settings/gated-repos shows the state",
        )
    if "rejected" in said:
        return failed(f"its owners refused access to {name}", f"choose another model, or ask them on {page}")
    return failed(
        f"the licence of {name} is not accepted by the token's account",
        f"accept it on {page}, then look again",
    )


def asked(facts: Facts, question: str) -> tuple[HubAnswers, Answer]:
    """The hub's answer to a question that was asked.

    Raises:
        HostError: it was not.
    """
    found = facts.hub()
    answer = found.get(question) if found else None
    if found is None or answer is None:
        raise HostError(f"the hub was not asked for {question}")
    return found, answer
