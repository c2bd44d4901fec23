# SPDX-License-Identifier: Apache-2.0
"""Everything that can be wrong with data, as one tree.

DataError                 whatever this room refuses; entry points turn it into exit code 2
├── ReadError             a source can't be opened or read
├── ContractError         the rows break the contract; carries every finding at once
└── PreparationError      rows are sound, yet nothing can be made of them (no merchant, no item, no time)

Each message says what was expected, what was found and what to do. None quotes a cell: rows are users' data.
"""

from dataclasses import dataclass

__all__ = ["ContractError", "DataError", "Finding", "PreparationError", "ReadError"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem of one column of one file.

    `row` is the 1-based number of the first offending data row (a CSV's header is not counted), 0 where the
    problem is not about a row; `count` is how many rows have it. `column` is "" for the file as a whole.
    """

    file: str
    column: str
    row: int
    problem: str
    remedy: str
    count: int = 0

    def __str__(self) -> str:
        place = self.file
        if self.column:
            place += f", column {self.column}"
        if self.row:
            place += f", row {self.row}"
        if self.count > 1:
            place += f" and {self.count - 1} more"
        return f"{place}: {self.problem}. {self.remedy}"


class DataError(Exception):
    """Data that this room refuses."""


class ReadError(DataError):
    """A source that can't be read: what was found there, and what to do."""

    def __init__(self, source: str, problem: str, remedy: str, *, column: str = "", row: int = 0) -> None:
        self.finding = Finding(source, column, row, problem, remedy)
        super().__init__(str(self.finding))


class ContractError(DataError):
    """Rows that break the contract; `findings` holds every problem, in the order of file and column."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        self.findings = findings
        lines = "\n".join(f"  {number}. {finding}" for number, finding in enumerate(findings, start=1))
        problems = "1 problem" if len(findings) == 1 else f"{len(findings)} problems"
        super().__init__(f"The data break the contract ({problems}):\n{lines}")


class PreparationError(DataError):
    """Sound rows out of which no league, split or vocabulary can be made."""
