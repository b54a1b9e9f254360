"""The Grafana dashboard and the Prometheus alerts ask for what a running service exports, by names and labels."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.api import array, user_json
from tests.support.server import Server

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "jetmlett.json").read_text())
OF_THE_TARGET = {"job", "instance"}  # labels that Prometheus adds
METRIC = re.compile(r"\b(reco_\w+)(?:\{([^}]*)\})?")
LABEL = re.compile(r"(\w+) *(?:=~|!~|!=|=)")


def panel_expressions() -> Iterator[Any]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")


def alert_expressions() -> Iterator[Any]:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            yield pytest.param(rule["expr"], id=rule["alert"])


def variable_expressions() -> Iterator[Any]:
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield pytest.param(variable["query"]["query"], id=f"variable {variable['name']}")


EXPRESSIONS = [*panel_expressions(), *alert_expressions(), *variable_expressions()]


@pytest.fixture(scope="module")
def exported(server: Server) -> dict[str, dict[str, set[str]]]:
    """The labels of each sample, by metric and sample, after requests of every kind."""
    server.send("POST", "/infer", user_json(), {})
    server.send("POST", "/batch", array([user_json(), user_json(k=0)]), {})
    text = server.send("GET", "/metrics", None, {}).body.decode()
    return {
        family.name: {
            name: {label for sample in family.samples if sample.name == name for label in sample.labels}
            for name in {sample.name for sample in family.samples}
        }
        for family in text_string_to_metric_families(text)
    }


@pytest.fixture(scope="module")
def labels(exported: dict[str, dict[str, set[str]]]) -> dict[str, set[str]]:
    return {name: found for samples in exported.values() for name, found in samples.items()}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_names_metrics_and_labels_that_are_exported(expression: str, labels: dict[str, set[str]]) -> None:
    found = METRIC.findall(expression)
    assert [name for name, _ in found if name not in labels] == []
    assert found
    for name, matchers in found:
        assert set(LABEL.findall(matchers)) - labels[name] - OF_THE_TARGET == set()
    of_all = set.union(OF_THE_TARGET, *(labels[name] for name, _ in found))
    for grouping in re.findall(r"\bby \(([^)]*)\)", expression):
        assert set(re.split(r", *", grouping)) - of_all == set()


@pytest.mark.parametrize("expression", [*panel_expressions(), *alert_expressions()])
def test_an_expression_takes_the_rate_of_what_only_grows_and_of_nothing_else(expression: str) -> None:
    for found in METRIC.finditer(expression):
        grows = found[1].endswith(("_total", "_bucket", "_count", "_sum"))
        before = expression[: found.start()]
        assert before.endswith(("rate(", "increase(")) == grows


@pytest.mark.parametrize("expression", [*panel_expressions(), *alert_expressions()])
def test_a_quantile_is_taken_over_buckets(expression: str) -> None:
    for inner in re.findall(r"histogram_quantile\((.*?\]\)*)", expression, re.DOTALL):
        assert re.search(r"by \(([^)]*\b)?le\b", inner)
        assert "_bucket" in inner


def test_every_metric_is_on_the_dashboard(exported: dict[str, dict[str, set[str]]]) -> None:
    shown = {name for parameter in panel_expressions() for name, _ in METRIC.findall(parameter.values[0])}
    assert [metric for metric, samples in exported.items() if not shown & samples.keys()] == []


def test_panels_fill_a_grid_without_overlap_and_have_ids_of_their_own() -> None:
    taken = [
        (x, y)
        for grid in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) == 23
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
