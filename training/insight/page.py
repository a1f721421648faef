"""One self-contained HTML page: headings, figures as data URIs, tables. No script, no network.

Knows HTML; must not know what the figures show.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from matplotlib.figure import Figure

from training.insight.style import as_image

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1e21; background: #fff; margin: 2rem auto; max-width: 1160px;
  padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin-bottom: 0.2rem; }
h2 { font-size: 1.25rem; margin-top: 2.4rem; border-bottom: 1px solid #d5d8dc; padding-bottom: 0.2rem; }
p { max-width: 52rem; }
figure { margin: 1rem 0; overflow-x: auto; }
figure img { max-width: 100%; height: auto; }
table { border-collapse: collapse; margin: 0.8rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.7rem; border-bottom: 1px solid #e2e4e8; text-align: right; }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; background: #f5f6f8; }
tr.strong td { font-weight: 600; }
"""


class Page:
    """A page that grows from top to bottom."""

    def __init__(self, title: str, subtitle: str) -> None:
        self.title = title
        self._parts = [f"<h1>{escape(title)}</h1>\n<p>{escape(subtitle)}</p>"]

    def section(self, heading: str, text: str = "") -> None:
        """A heading, and a paragraph under it."""
        self._parts.append(f"<h2>{escape(heading)}</h2>")
        if text:
            self.text(text)

    def text(self, text: str) -> None:
        """A paragraph."""
        self._parts.append(f"<p>{escape(text)}</p>")

    def figure(self, figure: Figure, description: str) -> None:
        """A figure, with a description for whoever cannot see it."""
        width = round(100 * figure.get_figwidth())
        self._parts.append(
            f'<figure><img src="{as_image(figure)}" width="{width}" alt="{escape(description)}"></figure>'
        )

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]], strong: Sequence[int] = ()) -> None:
        """A table; rows whose numbers are in `strong` stand out."""
        cells = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
        lines = [f"<table><thead><tr>{cells}</tr></thead><tbody>"]
        for number, row in enumerate(rows):
            kind = ' class="strong"' if number in strong else ""
            lines.append(f"<tr{kind}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>")
        self._parts.append("\n".join([*lines, "</tbody></table>"]))

    def html(self) -> str:
        """The whole document."""
        body = "\n".join(self._parts)
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(self.title)}</title>'
            f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
        )
