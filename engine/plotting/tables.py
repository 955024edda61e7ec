"""Text tables: aligned for the terminal, or Markdown.

`columns` is one letter for each column, as in LaTeX: "l" aligns it left, "r" right.
"""

from collections.abc import Iterator, Sequence

SIDES = {"l": "<", "r": ">"}

RULES = {"l": "---", "r": "---:"}


def aligned(rows: Sequence[Sequence[str]], columns: str | None = None) -> Iterator[str]:
    """The lines of a table; without `columns`, the first one is aligned left and the others right."""
    columns = columns or f"l{'r' * (len(rows[0]) - 1)}"
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [f"{cell:{SIDES[align]}{width}}" for cell, align, width in zip(row, columns, widths, strict=True)]
        yield "  ".join(cells).rstrip()


def as_markdown(rows: Sequence[Sequence[str]], columns: str | None = None) -> str:
    """Rows, the first of them titles, as a Markdown table; "|" in cells is escaped."""
    titles, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    rules = [RULES[align] for align in columns or "l" * len(titles)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [titles, rules, *body])
