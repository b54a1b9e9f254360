"""Print what fault tests tried and lost, from the lines they left.

python -m benchmarks.reliability FIGURES.jsonl
"""

import json
import sys
from pathlib import Path

from benchmarks.machine import machine


def main() -> None:
    print(f"machine: {machine()}, clients and server on the same cores\n")
    print("| proof | figures |")
    print("|---|---|")
    for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines():
        figures = json.loads(line)
        name = figures.pop("name")
        shown = [f"{key.replace('_', ' ')} {value:,}" for key, value in figures.items()]
        print(f"| {name} | {', '.join(shown)} |")


if __name__ == "__main__":
    main()
