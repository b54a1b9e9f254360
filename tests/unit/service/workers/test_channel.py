"""A connection after its last request."""

from types import SimpleNamespace

import pytest

from service.workers.connections.channel import Channel


@pytest.mark.parametrize(
    ("error", "chunked", "content_length", "is_read_on"),
    [(None, False, 9, False), ("421", False, 0, False), ("413", False, 9, True), ("401", True, 0, True)],
    ids=["no refusal", "no body", "a body", "a body in chunks"],
)
def test_only_after_the_refusal_of_a_body_is_more_read(
    error: str | None, chunked: bool, content_length: int, is_read_on: bool
) -> None:
    channel = Channel.__new__(Channel)
    channel.server, channel.requests = SimpleNamespace(add_task=lambda _: None), []
    channel.request = SimpleNamespace(empty=False, error=error, chunked=chunked, content_length=content_length)
    channel._take_request()
    assert channel._is_refused is is_read_on
