"""One colour, one marker and one name for each scheme, in every figure."""

from __future__ import annotations

# Okabe and Ito's colours, which everybody tells apart; schemes that share one differ in their marker.
_BLUE, _RED, _GREEN, _PINK, _ORANGE, _SKY, _BLACK = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
STYLES = {
    "none": (_BLACK, "s"),
    "rpg_global": (_BLUE, "o"),
    "rpg_local": (_SKY, "o"),
    "recurrent": (_SKY, "v"),
    "rpg_lors": (_PINK, "o"),
    "lors": (_RED, "^"),
    "lors_adaptive": (_RED, "D"),
    "tied": (_RED, "v"),
    "hashed": (_BLUE, "x"),
    "lowrank": (_PINK, "^"),
    "magnitude": (_ORANGE, "^"),
    "random_prune": (_ORANGE, "x"),
    "snip": (_GREEN, "^"),
    "synflow": (_GREEN, "o"),
    "rigl": (_ORANGE, "D"),
}
# Budgets that people name, those of the papers first: where two would stand on one another, the first is kept.
TICKS = (8e3, 36e3, 1e6, 11e6, 112e3, 360e3, 3.5e6, 1e3, 100e6, 2e3, 4e3, 18e3, 2e6, 5e6, 21e6, 500e3, 200e3, 50e3)
DASHES = ("-", "--", ":", "-.")  # tell lines of one scheme apart


def title(scheme: str) -> str:
    """What a legend calls it: a reader of a figure alone does not know what `none` is.

    >>> title("none"), title("lors")
    ('dense', 'lors')
    """
    return "dense" if scheme == "none" else scheme


def short(value: float) -> str:
    """A budget in few characters.

    >>> [short(n) for n in (800, 36_000, 1e6, 3.5e6)]
    ['800', '36k', '1M', '3.5M']
    """
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:g}"
