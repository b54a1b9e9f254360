"""A worker goes on whatever happens once."""

import logging
from unittest.mock import Mock

import pytest

from service.recommender import Recommender, Serving
from service.workers import worker
from tests.support.fake_engine import compass


class _ProcessEnds(BaseException):
    pass


def test_a_look_at_the_alias_that_fails_is_logged_and_not_the_last(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker, "_FOLLOW_SECONDS", 0)
    engine, other = compass(), compass()
    engine.latest = Mock(side_effect=[RuntimeError("an answer in a new form"), other])  # type: ignore[attr-defined]
    other.latest = Mock(side_effect=[other, _ProcessEnds])  # type: ignore[attr-defined]
    serving = Serving(Recommender(engine))
    with pytest.raises(_ProcessEnds), caplog.at_level(logging.ERROR):
        worker._follow_alias(serving)
    assert serving.recommender.engine is other
    assert [record.message for record in caplog.records] == ["cannot look up what Milvus serves"]
    assert "an answer in a new form" in caplog.text
