"""What every route does with a request's WSGI environment: read its body, answer it, and leave notes for the server."""

from collections.abc import Callable

from flask import Response, request

from service.errors import TooLarge
from service.http import payload
from service.recommender import Recommender

View = Callable[[], Response]

INDEX_VERSION = "X-Index-Version"
# Keys of the environment: the number of users in the request, the build that answered it, and the `Answered` that
# was found before the app saw the request.
USERS, BUILD, ANSWERED = "reco.users", "reco.build", "reco.answered"


def read_body(max_bytes: int) -> bytes:
    """The body of the current request. Raises TooLarge."""
    body: bytes = request.environ["wsgi.input"].read(max_bytes + 1)
    if len(body) > max_bytes:
        raise TooLarge(f"the body is larger than the {max_bytes} bytes allowed")
    return body


def respond(recommender: Recommender, body: bytes, media_type: str = payload.JSON) -> Response:
    """The answer to the current request by a recommender, whose build it names."""
    build_id = request.environ[BUILD] = recommender.info.build_id
    return Response(body, headers=[("Content-Type", media_type), (INDEX_VERSION, build_id)], direct_passthrough=True)
