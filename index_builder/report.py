"""The recall report of a build: `recall.json` for machines and, where matplotlib is installed, `recall.svg`."""

from pathlib import Path
from typing import Any

import numpy as np
import orjson

from index_builder.catalogue import Catalogue
from index_builder.tuning.quality import QualityReport
from index_builder.tuning.trials import TunedIndex
from retrieval.artifact.manifest import Recall
from retrieval.records.console import print_message
from retrieval.search.ranking import SIDES, Neighbours

FACTS, PICTURE = "recall.json", "recall.svg"
_QUANTILES = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)


def write_report(
    directory: Path, catalogue: Catalogue, tuned: TunedIndex, recall: Recall, report: QualityReport
) -> None:
    """Write what was measured, how the scores of some users' answers lie on both sides, and the catalogue's health."""
    sizes, answers = np.diff(catalogue.groups.starts), report.answers
    facts = {
        "recall": recall,
        "index": tuned.factory,
        "chosen": tuned.chosen,
        "measured": tuned.trials,
        "scores": {side: _quantiles(each.scores) for side, each in zip(SIDES, answers, strict=True)},
        "quality": report.quality,
        "hubs": report.hubs,
        "near_pairs": report.near_pairs,
        "catalogue": {
            "products": len(catalogue),
            "dropped_rows": catalogue.dropped_rows,
            "groups_of_identical_vectors": int((sizes > 1).sum()),
            "products_in_such_groups": int(sizes[sizes > 1].sum()),
            "largest_group": int(sizes.max()),
            "norms": _quantiles(catalogue.norms),
        },
        "fields": catalogue.fields,
    }
    (directory / FACTS).write_bytes(orjson.dumps(facts, option=orjson.OPT_INDENT_2))
    picture = directory / PICTURE
    try:
        _draw(picture, catalogue, tuned, answers)
    except ModuleNotFoundError:
        return
    except Exception as error:  # noqa: BLE001 (no build fails for want of a picture)
        picture.unlink(missing_ok=True)
        print_message(f"{PICTURE} is left out: {error}")


def _draw(path: Path, catalogue: Catalogue, tuned: TunedIndex, answers: tuple[Neighbours, Neighbours]) -> None:
    """Draw the report; raises ModuleNotFoundError where there is no matplotlib."""
    from matplotlib.figure import Figure

    shared = np.diff(catalogue.groups.starts)
    figure = Figure(figsize=(12, 8))
    panels = figure.subplots(2, 2, gridspec_kw={"hspace": 0.3})
    for panel, side in zip(panels[0], SIDES, strict=True):
        _draw_trade_off(panel, side, tuned)
    scores, norms = panels[1]
    for side, each in zip(SIDES, answers, strict=True):
        scores.hist(each.scores.ravel(), bins=50, alpha=0.6, label=f"{side} ten")
    scores.set(xlabel="cosine similarity", ylabel="matches", title="scores of sample users' matches")
    scores.legend()
    norms.hist(catalogue.norms, bins=50)
    title = f"{catalogue.dropped_rows:,} rows dropped, {shared[shared > 1].sum():,} products share a vector"
    norms.set(xlabel="length of a product's vector before normalising", ylabel="products", title=title)
    figure.suptitle(f"{tuned.factory} over {len(catalogue):,} products")
    figure.savefig(path)


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return dict(zip(map("{:.0%}".format, _QUANTILES), np.quantile(values, _QUANTILES).tolist(), strict=True))


def _draw_trade_off(panel: Any, side: str, tuned: TunedIndex) -> None:
    """Draw recall against time per query, with the chosen settings marked."""
    trials = [trial for trial in tuned.trials if trial.side == side]
    for factory in dict.fromkeys(trial.factory for trial in trials):
        kind = sorted((t.seconds * 1e3, t.recall) for t in trials if t.factory == factory)
        panel.plot(*zip(*kind, strict=True), "o", label=factory)
    chosen = tuned.chosen[side]
    panel.plot([chosen.seconds * 1e3], [chosen.recall], "ks", ms=12, mfc="none", label="chosen")
    panel.set(
        xscale="log", xlabel="milliseconds a user, both sides, one thread", ylabel="recall@10", title=f"{side} side"
    )
    panel.legend(fontsize="small")
    panel.grid(alpha=0.3)
