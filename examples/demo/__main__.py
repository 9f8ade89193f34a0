"""The demonstration behind ``make demo``: three problems, three tables, three pictures in ``demo-output/``."""

from __future__ import annotations

import time
from pathlib import Path

import bbob_functions
import digits_search
import policy_search
from rich.console import Console

FOLDER = Path("demo-output")


def main() -> None:
    console = Console()
    FOLDER.mkdir(exist_ok=True)
    tables, pictures, begin = [], [], time.perf_counter()
    for number, part in enumerate((digits_search, bbob_functions, policy_search), 1):
        console.rule(f"[bold]{number} of 3: {part.TITLE}")
        console.print(" ".join((part.__doc__ or "").split()) + "\n", highlight=False)
        table, picture = part.run(console, FOLDER)
        tables.append(table)
        pictures.append(picture)
    console.rule("[bold]Results")
    for table in tables:
        table.width, table.title_justify, table.caption_justify = 78, "left", "left"
        console.print(table, "")
    for picture in pictures:
        console.print(f"Picture: {picture}", highlight=False, soft_wrap=True)
    console.print(f"All three in {time.perf_counter() - begin:.0f} s.", highlight=False)


if __name__ == "__main__":  # worker processes import this file again
    main()
