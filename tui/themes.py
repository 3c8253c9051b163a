"""Our own themes: dark, light, and both in colours that people see who do not tell red from green."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rich.color import Color
from rich.terminal_theme import TerminalTheme
from textual.theme import Theme

DEFAULT = "llama-dark"


@dataclass(frozen=True)
class Palette:
    """The colours of a theme, as #rrggbb.

    Attributes:
        muted: what stands back: grey in a job's log, the raw loss beside the smoothed one.
        blue: of words; primary is for grounds.
        done, running, failed, waiting, unknown: of the states, which have a shape and a word each as well.
    """

    name: str
    dark: bool
    background: str
    surface: str
    panel: str
    foreground: str
    muted: str
    blue: str
    primary: str
    secondary: str
    accent: str
    done: str
    running: str
    failed: str
    waiting: str
    unknown: str

    def theme(self) -> Theme:
        """For Textual."""
        return Theme(
            name=self.name,
            dark=self.dark,
            primary=self.primary,
            secondary=self.secondary,
            accent=self.accent,
            foreground=self.foreground,
            background=self.background,
            surface=self.surface,
            panel=self.panel,
            success=self.done,
            warning=self.waiting,
            error=self.failed,
            variables={"footer-key-foreground": self.accent},
        )

    def terminal_theme(self) -> TerminalTheme:
        """What the colours by name become: those of states, and those that a job prints into its log."""
        hues = [self.failed, self.done, self.waiting, self.blue, self.unknown, self.running]
        # Bright black is what programs call grey; white comes from programs that think of a dark ground.
        black, white = (self.background, self.foreground) if self.dark else (self.foreground, self.muted)
        normal = [_rgb(one) for one in (black, *hues, white)]
        bright = [_rgb(one) for one in (self.muted, *hues, self.foreground)]
        return TerminalTheme(_rgb(self.background), _rgb(self.foreground), normal, bright)


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = Color.parse(colour).get_truecolor()
    return red, green, blue


_DARK = Palette(
    name="llama-dark",
    dark=True,
    background="#11151c",
    surface="#1a202a",
    panel="#252d3a",
    foreground="#e3e8ef",
    muted="#97a1b0",
    blue="#82aaf0",
    primary="#3f6fc4",
    secondary="#31548f",
    accent="#f0a860",
    done="#74c98a",
    running="#5cc8e0",
    failed="#f0787c",
    waiting="#e3b84a",
    unknown="#c79bf0",
)
_LIGHT = Palette(
    name="llama-light",
    dark=False,
    background="#fbfaf7",
    surface="#efece5",
    panel="#e2ded4",
    foreground="#20252c",
    muted="#5a6270",
    blue="#2f5fb3",
    primary="#2f5fb3",
    secondary="#5b7fc4",
    accent="#8f4f00",
    done="#1c6b36",
    running="#00677d",
    failed="#a8201a",
    waiting="#7a5600",
    unknown="#6f3a9e",
)
# Okabe and Ito's colours: blue against orange instead of green against red.
_SAFE_DARK = replace(
    _DARK,
    name="llama-colour-blind-dark",
    primary="#0072b2",
    secondary="#00507d",
    accent="#f0e442",
    done="#56b4e9",
    running="#f2f2f2",
    failed="#e69f00",
    waiting="#f0e442",
    unknown="#cc79a7",
)
_SAFE_LIGHT = replace(
    _LIGHT,
    name="llama-colour-blind-light",
    primary="#00609a",
    secondary="#3d86b5",
    accent="#7a4a00",
    done="#00609a",
    running="#20252c",
    failed="#a34700",
    waiting="#6b5d00",
    unknown="#8a3f6d",
)

PALETTES = (_DARK, _LIGHT, _SAFE_DARK, _SAFE_LIGHT)
TERMINAL_THEMES = {palette.name: palette.terminal_theme() for palette in PALETTES}
