"""What the demonstration prints: colours on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from rich.text import Text

SIMULATION = "SIMULATION: nothing here proves anything about any machine"


@dataclass(slots=True)
class Screen:
    """Prints steps with their times and keeps them for the summary. seconds: step title to duration."""

    console: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))
    seconds: dict[str, float] = field(default_factory=dict)

    def title(self, text: str) -> None:
        """Print the first line of all."""
        self.console.print(Text(text, style="bold"))
        self.warn(SIMULATION)

    def warn(self, text: str) -> None:
        """Print what must not be overlooked."""
        self.console.print(Text(text, style="bold yellow"))

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Number and time one step; nothing is kept of a step that fails."""
        number = len(self.seconds) + 1
        self.console.print(Text(f"\n{number}. {title}", style="bold cyan"))
        begin = time.monotonic()
        yield
        self.seconds[title] = time.monotonic() - begin
        self.console.print(Text(f"   done in {self.seconds[title]:.1f} s", style="green"))

    def command(self, line: str) -> None:
        """Print a command as the user would type it."""
        self.console.print(Text(f"   $ {line}", style="bold"))

    def output(self, line: str) -> None:
        """Print a line that a command printed."""
        self.console.print(Text(f"     {line}", style="dim"))

    def say(self, text: str) -> None:
        """Print a sentence of the demonstration's own."""
        self.console.print(Text(f"   {text}"))

    def held(self, text: str) -> None:
        """Print a check that held."""
        self.console.print(Text("   ok: ", style="green").append(text, style="default"))

    def summary(self, facts: list[tuple[str, str]]) -> None:
        """Print the closing table: times of the steps, then `facts`."""
        table = Table(title="securetf demo, SIMULATION", title_justify="left", min_width=60)
        table.add_column("step")
        table.add_column("result", justify="right")
        for number, (title, seconds) in enumerate(self.seconds.items(), 1):
            table.add_row(f"{number}. {title}", f"{seconds:.1f} s")
        table.add_section()
        for name, value in facts:
            table.add_row(name, value)
        self.console.print()
        self.console.print(table, soft_wrap=False)
