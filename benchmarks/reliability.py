"""Print what fault tests tried and lost, from the lines they left.

python -m benchmarks.reliability FIGURES.jsonl
"""

import json
import sys
from pathlib import Path

from benchmarks.report import print_header, print_machine, print_row


def main() -> None:
    print_machine(", clients and server on the same cores\n")
    print_header("proof", "figures")
    for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines():
        name, *figures = json.loads(line).items()
        print_row(name[1], ", ".join(f"{key.replace('_', ' ')} {_written(value)}" for key, value in figures))


def _written(figure: object) -> str:
    return figure if isinstance(figure, str) else f"{figure:,}"


if __name__ == "__main__":
    main()
