"""The Python of the project, without tests and the scripts that make the sample data."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
_ELSEWHERE = {"tests", "data"}


def source_files() -> list[Path]:
    folders = [path for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "." and path.name not in _ELSEWHERE]
    return sorted([*ROOT.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))])


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))
