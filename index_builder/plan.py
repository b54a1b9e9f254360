"""Decides which FAISS index a catalogue gets."""

from dataclasses import dataclass

EXACT = "Flat"


@dataclass(frozen=True)
class Plan:
    """`factory` is the index kind in FAISS's own factory syntax."""

    factory: str


def plan_index(wanted: str) -> Plan:
    """The plan for `--index`: `auto` scans exactly, anything else is taken as a FAISS factory string."""
    return Plan(EXACT if wanted == "auto" else wanted)
