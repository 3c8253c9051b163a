"""Tells from a job's log, codes and states what went wrong, what it means and what to do.

The catalogue's signatures are tried on the log; the most specific that fires is the diagnosis. Where none does, that is
said, with the lines to look at: never a guess dressed as knowledge. Nothing is executed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from llama_tui.backend.diagnosis.catalogue import HEALTHY, UNKNOWN, Rule, kinds, rules
from llama_tui.backend.diagnosis.excerpt import Excerpt, is_warning, own_exception, swallowed_from, went_well
from llama_tui.backend.diagnosis.logtext import Found, LogLine, LogText
from llama_tui.backend.diagnosis.symptoms import Outcome, Symptoms
from llama_tui.backend.dotted import field_names
from llama_tui.backend.settings import Settings

__all__ = ["Diagnosis", "LogLine", "Outcome", "Symptoms", "diagnose"]

# A message as general as this is no proof of failure in a job that ended with success.
STRONG = 60
# Here the code is that of a single command, which swallows no error.
_COMMANDS = frozenset({"submit", "ssh"})
# What the log says of a name may be long; the sentence is for people.
MAX_NAME = 120

_STILL = {
    Outcome.WAITING: (
        "The job waits for its turn; nothing is wrong with it.",
        "Wait, or see 'squeue --start'.",
    ),
    Outcome.RUNNING: ("The job runs.", "Wait until it has ended."),
}


@dataclass(frozen=True)
class Diagnosis:
    """What went wrong.

    Attributes:
        kind: the failure's short name; `healthy` and `unknown` among them.
        cause: what happened, one sentence.
        fix: what to do next.
        source: where this is known from.
        lines: the lines of the log that decide it or matter most, in their order.
        sure: whether the symptoms prove it; always false for `unknown`.
        field: the setting to change (`token` for the token); empty where changing one does not help, as far as is known.
    """

    kind: str
    cause: str
    fix: str
    source: str
    lines: tuple[LogLine, ...]
    sure: bool
    field: str = ""


@dataclass(frozen=True)
class _Fired:
    """A rule that fired, the decisive line (if the log decided), and all that matched."""

    rule: Rule
    found: tuple[Found, ...]
    state: re.Match[str] | None

    @property
    def rank(self) -> tuple[int, int, int]:
        """The higher, the more specific; of equals the first error of the log, the others follow from it."""
        first = -self.found[0].index if self.found else 0
        return (self.rule.signature.priority, self.rule.signature.conditions, first)


def diagnose(symptoms: Symptoms) -> Diagnosis:
    """The diagnosis of a job. Takes less than a second for a log of any size; never raises for what a log holds."""
    log = LogText(symptoms.log)
    outcome = symptoms.outcome
    presumed = outcome is Outcome.NOT_TOLD and went_well(log)
    succeeded = outcome is Outcome.SUCCEEDED or presumed
    swallowed = swallowed_from(log) if succeeded and symptoms.stage not in _COMMANDS else None
    calm = succeeded or outcome is Outcome.RUNNING
    fired = [one for rule in rules() if (one := _fire(rule, symptoms, log))]
    failures = [one for one in fired if one.rule.kind != HEALTHY and _counts(one, calm, swallowed)]
    failures = _without_side_notes(failures, log)
    if failures and (best := max(failures, key=lambda one: one.rank)).rule.kind != UNKNOWN:
        return _told(best, log)
    if succeeded and swallowed is None:
        return replace(_healthy([one for one in fired if one.rule.kind == HEALTHY], log), sure=not presumed)
    if outcome in _STILL:
        cause, fix = _STILL[outcome]
        return Diagnosis(HEALTHY, cause, fix, "scheduler state", (), sure=True)
    return _unknown(failures, symptoms, log)


def _counts(fired: _Fired, calm: bool, swallowed: int | None) -> bool:
    """Whether a rule that fired is to be believed: after a success only with an error that nothing followed."""
    if not calm or fired.rule.signature.after_success:
        return True
    if swallowed is None or fired.rule.signature.priority < STRONG or not fired.found:
        return False
    return fired.found[0].index >= swallowed


def _without_side_notes(failures: list[_Fired], log: LogText) -> list[_Fired]:
    """Without warnings and cascades, where the job ended with an exception that no rule knows: neither explains it."""
    raised = own_exception(log)
    known = (pattern for one in failures if one.rule.kind != UNKNOWN for pattern in one.rule.lines)
    if not raised or any(pattern.regex.search(raised) for pattern in known):
        return failures
    return [one for one in failures if not _is_side_note(one, log)]


def _is_side_note(fired: _Fired, log: LogText) -> bool:
    if fired.rule.signature.follows:
        return True
    return bool(fired.found) and is_warning(log.lines[fired.found[0].index].text)


def _fire(rule: Rule, symptoms: Symptoms, log: LogText) -> _Fired | None:
    if not _conditions_hold(rule, symptoms):
        return None
    state = re.fullmatch(rule.signature.slurm_state, symptoms.state, re.IGNORECASE)
    if rule.signature.slurm_state and state is None:
        return None
    found: list[Found] = []
    if rule.lines:
        decisive = _first(rule, log)
        if decisive is None:
            return None
        found.append(decisive)
    for pattern in rule.also:
        other = log.find(pattern)
        if other is None:
            return None
        found.append(other)
    if any(log.find(pattern) for pattern in rule.unless) or _went_on(rule, log):
        return None
    return _Fired(rule, tuple(found), state)


def _conditions_hold(rule: Rule, symptoms: Symptoms) -> bool:
    signature = rule.signature
    if signature.stages and symptoms.stage is not None and symptoms.stage not in signature.stages:
        return False
    if signature.exit_code and symptoms.exit_code not in signature.exit_code:
        return False
    if signature.signal and symptoms.ended_by not in signature.signal:
        return False
    return bool(
        re.search(signature.slurm_reason, symptoms.slurm_reason or "")
        and re.search(signature.node_state, symptoms.node_state or "")
    )


def _first(rule: Rule, log: LogText) -> Found | None:
    """The first line that decides; a warning only where no other line does."""
    count = rule.signature.at_least
    found = [one for pattern in rule.lines if (one := log.find(pattern, count, rule.skip))]
    errors = [one for one in found if not is_warning(log.lines[one.index].text)]
    return min(errors or found, key=lambda one: one.index, default=None)


def _went_on(rule: Rule, log: LogText) -> bool:
    if not rule.unless_after:
        return False
    last = max((log.last_index(pattern) for pattern in rule.lines), default=-1)
    return any(log.last_index(pattern) > last for pattern in rule.unless_after)


def _told(best: _Fired, log: LogText) -> Diagnosis:
    excerpt = Excerpt(log)
    return Diagnosis(
        best.rule.kind,
        _words(best),
        best.rule.fix,
        best.rule.source,
        excerpt.lines([found.index for found in best.found]),
        best.rule.signature.sure,
        best.rule.field,
    )


def _words(fired: _Fired) -> str:
    """The cause, with the names that the log gives; the kind's own sentence where a name is missing."""
    names: dict[str, str] = {}
    for match in (fired.state, *(found.match for found in fired.found)):
        if match is not None:
            names.update({name: text for name, text in match.groupdict().items() if text})
    wanted = re.findall(r"\{(\w+)\}", fired.rule.cause)
    if any(name not in names for name in wanted):
        return fired.rule.plain_cause
    return re.sub(r"\{(\w+)\}", lambda match: names[match[1]][:MAX_NAME], fired.rule.cause)


def _healthy(notes: list[_Fired], log: LogText) -> Diagnosis:
    if notes:
        return _told(max(notes, key=lambda one: one.rank), log)
    kind = kinds()[HEALTHY]
    return Diagnosis(HEALTHY, kind.cause, kind.fix, kind.source, (), sure=True)


def _unknown(failures: list[_Fired], symptoms: Symptoms, log: LogText) -> Diagnosis:
    excerpt = Excerpt(log)
    kind = kinds()[UNKNOWN]
    cause, fix, source, field = kind.cause, kind.fix, kind.source, ""
    if failures:
        best = max(failures, key=lambda one: one.rank)
        cause, fix, source, field = best.rule.cause, best.rule.fix, best.rule.source, best.rule.field
    if symptoms.outcome is Outcome.NOT_TOLD and not failures:
        cause = "The log shows no failure that is known, and no exit code or state was given."
    if said := excerpt.own_error:
        cause, fix = f"The stage's program gave up: {said}", excerpt.own_hint or fix
        source, field = "the stage's own program", field_named_in(excerpt.own_hint)
    elif said := excerpt.exception:
        cause = f"The program ended with an exception that is not in the catalogue: {said}"
    decisive = [found.index for one in failures for found in one.found]
    return Diagnosis(UNKNOWN, cause, fix, source, excerpt.lines(decisive, with_end=True), False, field)


def field_named_in(text: str) -> str:
    """The first setting that a text names, such as training.seed; empty where it names none."""
    known = field_names(Settings)
    return next((name for name in re.findall(r"\b[a-z_]+\.[a-z_]+\b", text) if name in known), "")
