"""Small SVG badges that other pages can embed; they need no network, no fonts and no script."""

from html import escape

from companion.press.claims import STATUSES

COLOURS = {"held": "#0b6e99", "partly": "#8a5a00", "failed": "#a33a00", "not tested": "#5f6368"}
CHARACTER = 6.6  # pixels a character of 11 px sans-serif takes, about


def badge(label: str, message: str, colour: str) -> str:
    """Return an SVG badge: `label` on grey, `message` on `colour`, white letters on both."""
    left, right = (round(len(text) * CHARACTER + 14) for text in (label, message))
    said = f"{escape(label)}: {escape(message)}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" aria-label="{said}">'
        f"<title>{said}</title>"
        f'<rect width="{left}" height="20" fill="#3b3f46"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="{colour}"/>'
        '<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">'
        f'<text x="{left / 2}" y="14">{escape(label)}</text>'
        f'<text x="{left + right / 2}" y="14">{escape(message)}</text></g></svg>\n'
    )


def verdict_badge(label: str, counts: dict[str, int]) -> str:
    """Return the badge of verdict counts by status, coloured by the worst thing that was found."""
    said = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts.get(status)) or "nothing tested"
    worst = next((status for status in ("failed", "partly", "held") if counts.get(status)), "not tested")
    return badge(label, said, COLOURS[worst])
