"""Which lines of a log matter most: the first error, the last traceback, what our own programs said."""

from __future__ import annotations

import re
from functools import cached_property

from llama_tui.backend.diagnosis.logtext import LogLine, LogText

MAX_SHOWN = 8
MAX_SENTENCE = 300
END_LINES = 3

# Ranks and tasks put their name before each line.
_PREFIX = r"^(?:\[\w+\d*\]:? ?|\d+: )?"
_TRACEBACK = re.compile(_PREFIX + r"Traceback \(most recent call last\)")
_FRAME = re.compile(_PREFIX + r'\s*File "[^"]+", line \d+')
_EXCEPTION = re.compile(
    _PREFIX + r"(?:(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Warning)(?:: |$)"
    r"|(?:[a-z_]\w*\.){2,}[A-Z][A-Za-z]+: )"
)
# Exceptions in which a rank only tells that it lost the others.
_LOST_PEERS = re.compile(
    r"Dist\w*Error|Rendezvous|c10d|gloo|socket|connect|collective|communicat|Broken ?Pipe|reset by peer|closed|EOFError|time(?:d )?-?out"
    r"|StatusOr|Failed to execute|\bnrt_|ChildFailed|SignalException|KeyboardInterrupt|SystemExit|Warning",
    re.IGNORECASE,
)
_WARNING = re.compile(
    r"(?:^|[\s\[(:])(?:\w*Warning|WARN(?:ING)?|warning|INFO|DEBUG)(?:[:\s\])|]|$)|^W: |thrown while requesting"
    r"|falling back|might affect training convergence|which is incompatible"
)
_OWN_ERROR = re.compile(_PREFIX + r"error: (?P<said>\S.*)")
_OWN_HINT = re.compile(_PREFIX + r"hint: (?P<said>\S.*)")
_ERROR = re.compile(
    r"\b(?:error|fatal|failed|failure|exception|cannot|unable to|killed|denied)\b", re.IGNORECASE
)
# Launchers' reports of what happened elsewhere: never the first error.
_REPORT = re.compile(
    r"^srun: |ChildFailedError|closing signal|slurmstepd: error: \*\*\* STEP|exitcode: |<NO_OTHER_FAILURES>"
)

_WORKED = re.compile(
    r"^(?!.*\b(?:not|never|cannot|failed)\b).*\b(?:saved|successfully)\b|status PASS|[{,] ?['\"]loss['\"]: [\d.]+|train_runtime|generated text|checkpoint written"
    r"|environment ok|100%\||^Setting up |Total failed compilations: 0|\bis already the newest version|^wrote ",
    re.IGNORECASE,
)
_REGRET = re.compile(
    _PREFIX + r"(?:(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception): |(?:error|fatal|failed)\b.{0,60}: |"
    r"(?:an )?(?:unexpected )?(?:error|exception) (?:occurred|while|during|in|when)\b|failed to \w+|"
    r"(?:could not|couldn't|cannot|can't|unable to) \w+ .{0,80}: )",
    re.IGNORECASE,
)
_CRASH = re.compile(
    r"core dumped|Segmentation fault|No such file|not found|CANCELLED|\bKilled\b|\d+ Aborted\b"
)
# Python tells of errors at its own end, in threads and in destructors; the run is over by then.
_AT_EXIT = re.compile(
    r"Exception ignored|Error in atexit|__del__|resource_tracker|Exception in thread|atexit"
)


def swallowed_from(log: LogText) -> int | None:
    """Where, in a job that ended with code 0, an error begins that nothing successful followed; None if there is none."""
    start = 1 + max((i for i, line in enumerate(log.lines) if _WORKED.search(line.text)), default=-1)
    rest = [line.text for line in log.lines[start:]]
    if any(_AT_EXIT.search(text) for text in rest):
        return None
    return start if any(_REGRET.search(text) for text in rest) else None


def went_well(log: LogText) -> bool:
    """Whether the log's last word is a success, for a job of which no code and no state is known."""
    last = max((i for i, line in enumerate(log.lines) if _WORKED.search(line.text)), default=None)
    if last is None:
        return False
    rest = log.lines[last + 1 :]
    return not any(one.search(line.text) for line in rest for one in (_REGRET, _REPORT, _CRASH))


def own_exception(log: LogText) -> str:
    """The last exception that is not just a rank's word that it lost the others; empty if there is none."""
    texts = (line.text for line in reversed(log.lines))
    return next((text for text in texts if _EXCEPTION.match(text) and not _LOST_PEERS.search(text)), "")


def is_warning(text: str) -> bool:
    """Whether a line says of itself that the program went on."""
    return bool(_WARNING.search(text))


class Excerpt:
    """The lines of a log that a person should see."""

    def __init__(self, log: LogText) -> None:
        self._log = log.lines

    @cached_property
    def _last_exception(self) -> int | None:
        """The line that ends the last traceback."""
        starts = [i for i, line in enumerate(self._log) if _TRACEBACK.match(line.text)]
        for start in reversed(starts):
            for index in range(start + 1, len(self._log)):
                text = self._log[index].text
                if _EXCEPTION.match(text) and not _REPORT.search(text):
                    return index
                if _TRACEBACK.match(text):
                    break
        return None

    @property
    def exception(self) -> str:
        """The last exception's own words; empty if there is none."""
        if self._last_exception is None:
            return ""
        return re.sub(_PREFIX, "", self._log[self._last_exception].text)[:MAX_SENTENCE]

    @property
    def own_error(self) -> str:
        """What a stage's program printed as `error: ...` last; empty if it did not."""
        return self._said(_OWN_ERROR)

    @property
    def own_hint(self) -> str:
        """What a stage's program printed as `hint: ...` last; empty if it did not."""
        return self._said(_OWN_HINT)

    def _said(self, pattern: re.Pattern[str]) -> str:
        found = (match["said"] for line in reversed(self._log) if (match := pattern.match(line.text)))
        return next(found, "")[:MAX_SENTENCE]

    def lines(self, decisive: list[int], with_end: bool = False) -> tuple[LogLine, ...]:
        """The decisive lines, the first error, the last traceback's frame and exception; on wish the log's end."""
        wanted = [*decisive[:3], *self._traceback(), *self._first_error()]
        if with_end:
            wanted += range(max(0, len(self._log) - END_LINES), len(self._log))
        chosen = list(dict.fromkeys(wanted))[:MAX_SHOWN]
        return tuple(self._log[index] for index in sorted(chosen))

    def _first_error(self) -> list[int]:
        for index, line in enumerate(self._log):
            if _ERROR.search(line.text) and not _REPORT.search(line.text):
                return [index]
        return []

    def _traceback(self) -> list[int]:
        end = self._last_exception
        if end is None:
            return []
        frames = (i for i in range(end - 1, max(-1, end - 60), -1) if _FRAME.match(self._log[i].text))
        return [*([frame] if (frame := next(frames, None)) is not None else []), end]
