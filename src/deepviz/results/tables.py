"""Tables of results in text: plain, CSV, Markdown and LaTeX, and as a data frame."""

from __future__ import annotations

import csv
import io
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from deepviz.errors import MissingExtra

Format = Literal["table", "csv", "markdown", "latex"]
INTERVALS = " Mean ± half the width of its 95 % bootstrap interval."
LEAST = 1e-5
"""Half widths below it are written with an exponent."""
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "{}$&#_%"},
    "±": r"$\pm$",
    "°": r"$^{\circ}$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "–": "--",
}


@dataclass(frozen=True)
class Table:
    """Cells in words, with a name for each row and a head for each column.

    Args:
        heads: of the columns, without that of the names.
        names: of the rows.
        cells: rows by columns.
        footnote: one paragraph.
        best: the cells (row, column) in bold.
        marks: signs after cells, by (row, column).
        apart: how many rows at the end are set apart, such as controls.
    """

    heads: Sequence[str]
    names: Sequence[str]
    cells: Sequence[Sequence[str]]
    footnote: str
    best: frozenset[tuple[int, int]] = frozenset()
    marks: dict[tuple[int, int], str] | None = None
    apart: int = 0

    def __str__(self) -> str:
        columns = [aligned([row[column] for row in self.cells]) for column in range(len(self.heads))]
        marked = [
            [name, *(cell + self._mark(row, column) for column, cell in enumerate(cells))]
            for row, (name, *cells) in enumerate(zip(self.names, *columns, strict=True))
        ]
        lines = [["", *self.heads], *marked]
        widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
        text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        return "\n".join([*text, self.footnote])

    def markdown(self) -> str:
        """The table as GitHub and others render it, with the footnote below."""

        def line(cells: Sequence[str]) -> str:
            return f"| {' | '.join(cells)} |"

        rows = self._rows(_in_markdown, "**{}**", "*{}*")
        rule = line(["---", *("---:" for _ in self.heads)])
        return "\n".join(
            [line(["", *map(_in_markdown, self.heads)]), rule, *map(line, rows), "", _in_markdown(self.footnote)]
        )

    def latex(self) -> str:
        r"""A `tabular` with the rules of booktabs; the footnote is a comment in front of it."""
        rows = [" & ".join(row) + r" \\" for row in self._rows(in_latex, r"\textbf{{{}}}", r"\textit{{{}}}")]
        if 0 < self.apart < len(rows):
            rows.insert(len(rows) - self.apart, r"\midrule")
        return "\n".join(
            [
                rf"% {self.footnote}",
                r"% needs \usepackage{booktabs}",
                rf"\begin{{tabular}}{{l{'r' * len(self.heads)}}}",
                r"\toprule",
                " & ".join(["", *map(in_latex, self.heads)]) + r" \\",
                r"\midrule",
                *rows,
                r"\bottomrule",
                r"\end{tabular}",
            ]
        )

    def _rows(self, escape: Callable[[str], str], bold: str, italic: str) -> list[list[str]]:
        """The rows with their names, escaped, the best in bold and the names of those set apart in italics."""
        return [
            [
                italic.format(escape(name)) if row >= len(self.names) - self.apart else escape(name),
                *(
                    (bold.format(escape(cell)) if (row, column) in self.best else escape(cell))
                    + escape(self._mark(row, column))
                    for column, cell in enumerate(self.cells[row])
                ),
            ]
            for row, name in enumerate(self.names)
        ]

    def _mark(self, row: int, column: int) -> str:
        return (self.marks or {}).get((row, column), "")


def with_interval(mean: float, low: float, high: float) -> str:
    """A mean and half the width of its interval, both to that half's second digit; without an interval, three digits.

    Example:
        >>> with_interval(0.31234, 0.2711, 0.3531), with_interval(1 / 3, math.nan, math.nan)
        ('0.312 ± 0.041', '0.333')
    """
    if math.isnan(mean):
        return "–"
    half = (high - low) / 2
    if not half > 0:
        return f"{mean:.3g}" + ("" if math.isnan(half) else " ± 0")
    power = int(f"{half:.1e}".partition("e")[2])
    if half < LEAST:
        more = int(f"{mean:.1e}".partition("e")[2]) - power if mean else 0
        return f"{mean:.{max(0, more) + 1}e} ± {half:.1e}"
    digits = max(0, 1 - power)
    return f"{_without_minus_zero(f'{mean:.{digits}f}')} ± {half:.{digits}f}"


def aligned(cells: Sequence[str]) -> list[str]:
    """Cells of one column, padded so that the points of their numbers are below each other.

    Example:
        >>> aligned(["12.5 ± 1.1", "0.312 ± 0.041", "–"])
        ['12.5   ± 1.1  ', ' 0.312 ± 0.041', ' –            ']
    """
    parts = [re.fullmatch(r"(-?[^.±]*?)(\.\S*)?( ± [^.]*)?(\.\S*)?", cell) for cell in cells]
    split = [
        [part or "" for part in found.groups()] if found else [cell] for found, cell in zip(parts, cells, strict=True)
    ]
    whole, fraction, half, rest = (max((len(one[k]) for one in split if k < len(one)), default=0) for k in range(4))
    return [
        f"{one[0]:>{whole}}{one[1]:<{fraction}}{one[2]:<{half}}{one[3]:<{rest}}" if len(one) == 4 else one[0]
        for one in split
    ]


def check_part(part: str, parts: Collection[str]) -> None:
    """Refuse a table that there is not.

    Raises:
        ValueError: with those there are.
    """
    if part not in parts:
        raise ValueError(f"part must be one of {', '.join(map(repr, parts))}, got {part!r}")


class Tabular(ABC):
    """A result with a table in words, and tables of plain values."""

    parts: ClassVar[Mapping[str, Sequence[str]]]
    """The tables of plain values, with their columns."""

    @property
    @abstractmethod
    def text_table(self) -> Table:
        """The table in words."""

    @abstractmethod
    def entries(self, part: str = "summary") -> list[dict[str, Any]]:
        """One of the tables as plain values, by the columns."""

    def to_csv(self, part: str = "summary") -> str:
        """A table as CSV, with a heading; None is empty.

        Args:
            part: "summary": a line for each mean, with its interval; "values": for each single value, or the reason why
                there is none; of an `Evaluation` also "curves": for each point of each curve.
        """
        rows, out = self.entries(part), io.StringIO()
        writer = csv.DictWriter(out, self.parts[part], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()

    def to_pandas(self, part: str = "summary") -> Any:
        """A table as a pandas DataFrame; `part` as for `to_csv`.

        Raises:
            MissingExtra: without pandas.
        """
        rows = self.entries(part)
        try:
            import pandas
        except ImportError:
            raise MissingExtra("to_pandas() needs pandas: pip install pandas") from None
        return pandas.DataFrame(rows, columns=list(self.parts[part]))

    def to_markdown(self) -> str:
        """The table in words, means with intervals, as Markdown."""
        return self.text_table.markdown()

    def to_latex(self) -> str:
        """The table in words, means with intervals, as LaTeX, with the rules of booktabs."""
        return self.text_table.latex()


def in_format(found: Tabular, format: Format) -> str:
    """A result as text in one of the formats, without a line break at the end."""
    if format == "csv":
        return found.to_csv().rstrip("\n")
    if format == "table":
        return str(found)
    return found.to_markdown() if format == "markdown" else found.to_latex()


def in_latex(text: str) -> str:
    r"""Text as LaTeX shows it, with the signs of tables as symbols.

    Example:
        >>> print(in_latex("_blocks.5 & 50 % ↑"), in_latex("-0.31 ± 0.04"))
        \_blocks.5 \& 50 \% $\uparrow$ $-$0.31 $\pm$ 0.04
    """
    text = "".join(_LATEX.get(sign, sign) for sign in text)
    return re.sub(r"^-(?=\d)", "$-$", text)


def _in_markdown(text: str) -> str:
    return re.sub(r"([\\|*_<>`])", r"\\\1", text)


def _without_minus_zero(text: str) -> str:
    return text.removeprefix("-") if text.startswith("-") and not text.strip("-0.") else text
