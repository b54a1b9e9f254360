"""How far best scores have moved from those of the builder's users is exported."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from retrieval.artifact.build import Build
from service.http import metrics
from service.recommender import Recommender
from service.recommender.score_ranks import ScoreRanks
from tests.integration.conftest import ApiOver
from tests.support.api import array
from tests.support.engines import engine_of


def observed(recommender: Recommender) -> np.ndarray:
    """The sum of ranks and their count."""
    text = metrics.exposition(recommender.info).decode()
    samples = {sample.name: sample.value for each in text_string_to_metric_families(text) for sample in each.samples}
    return np.array([samples["reco_best_score_rank_sum"], samples["reco_best_score_rank_count"]])


def sent(user: dict[str, Any], **options: Any) -> bytes:
    return json.dumps({"name": user["name"], "vector": user["vector"], **options}).encode()


def test_users_like_the_builders_have_a_mean_rank_of_a_half_and_others_a_lower_one(
    api_over: ApiOver, recommender: Recommender, sample_users: list[dict[str, Any]]
) -> None:
    api, draw = api_over(), np.random.default_rng(5)
    before = observed(recommender)
    best = [api.infer(sent(user)).json["best"][0]["score"] for user in sample_users[:150]]
    like = observed(recommender)
    for user in sample_users[:50]:
        api.infer(sent({**user, "vector": draw.normal(size=300).tolist()}))
    total, count = observed(recommender) - like
    assert (like - before)[1] == 150
    quality = recommender.info.quality
    assert quality is not None
    rank = ScoreRanks(quality["best"]["first_scores"]).rank
    assert (like - before)[0] == pytest.approx(sum(map(rank, best)))
    assert (like - before)[0] / 150 == pytest.approx(0.5, abs=0.1)
    assert (count, total) == (50, 0.0)


def test_of_a_batch_some_users_count_and_those_who_filter_do_not(
    api_over: ApiOver, recommender: Recommender, sample_users: list[dict[str, Any]]
) -> None:
    api, query = api_over(), {"cuisine": {"$exists": True}}
    users = [sent(user, **({"filter": query} if number % 2 else {})) for number, user in enumerate(sample_users[:20])]
    before = observed(recommender)
    api.batch(array(users))
    api.infer(users[1])
    assert (observed(recommender) - before)[1] == 5


@pytest.mark.parametrize("options", [{"exclude": ["p1"]}, {"min_score": 0.1}], ids=["exclude", "min_score"])
def test_users_who_leave_products_out_are_none_of_the_builders(
    api_over: ApiOver, recommender: Recommender, sample_users: list[dict[str, Any]], options: dict[str, Any]
) -> None:
    api, before = api_over(), observed(recommender)
    without = sent(sample_users[0], **options)
    assert api.infer(without).json["best"]
    api.batch(array([without, sent(sample_users[1])]))
    assert (observed(recommender) - before)[1] == 1


def test_where_not_all_products_may_be_shown_scores_are_no_measure(
    api_over: ApiOver, sample_build: Build, sample_users: list[dict[str, Any]]
) -> None:
    for shown, counted in (('{"cuisine": {"$ne": "pizza"}}', 0), ("", 1)):
        recommender = Recommender(engine_of(sample_build, shown=shown))
        before = observed(recommender)
        api_over(recommender).infer(sent(sample_users[0]))
        assert (observed(recommender) - before)[1] == counted


def test_scores_of_users_made_from_products_are_no_measure_of_others(
    api_over: ApiOver, sample_build: Build, sample_users: list[dict[str, Any]]
) -> None:
    quality = sample_build.manifest.quality
    assert quality is not None
    for changed in (replace(quality, synthetic=True), None):
        build = replace(sample_build, manifest=replace(sample_build.manifest, quality=changed))
        made_up = Recommender(engine_of(build))
        before = observed(made_up)
        api_over(made_up).infer(sent(sample_users[0]))
        assert (observed(made_up) - before)[1] == 0
