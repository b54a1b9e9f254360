"""Send the sample users to a running service and print what fits them best and worst."""

import argparse
import json
import signal
import sys
from collections.abc import Callable
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from client.jetmlett_client import Answer, Client, Match, NoAnswer, Refused, User, UserError

DATA = Path(__file__).parent / "data"
SHOWN_OF_A_BATCH = 5

MakeUser = Callable[[str, list[float]], User]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://localhost:5000", help="the service (default: %(default)s)")
    parser.add_argument("--batch", action="store_true", help="send data/users_batch.json to /batch in one request")
    parser.add_argument(
        "--filter", type=read_object, help='only products that match, as JSON: \'{"section": "drinks"}\''
    )
    parser.add_argument("--embedding-model", help="what made the users' vectors; the service refuses another one's")
    parser.add_argument(
        "--max-per", type=read_object, help="so many of the same value at most, as JSON: '{\"cuisine\": 2}'"
    )
    parser.add_argument("--diversity", type=float, help="how unlike each other matches are to be, from 0 to 1")
    parser.add_argument("--key", help="API key, where the service wants one")
    options = parser.parse_args()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `query.py | head` ends quietly
    query = query_batch if options.batch else query_one_by_one
    try:
        model = options.embedding_model
        with Client(options.url, api_key=options.key, embedding_model=model, timeout=60) as client:
            query(client, partial(User, filter=options.filter, max_per=options.max_per, diversity=options.diversity))
    except ValueError as error:
        sys.exit(f"--url: {error}")
    except Refused as error:
        sys.exit(f"{options.url} answered {error.status}: {error.body}")
    except NoAnswer as error:
        sys.exit(f"no answer from {options.url} ({error}); is the service running? `make serve` starts it")


def read_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError('must be an object, such as {"section": "drinks"}')
    return found


def query_one_by_one(client: Client, make_user: MakeUser) -> None:
    for line in (DATA / "users.json").read_text().splitlines():
        user = json.loads(line)
        show(user, client.infer(make_user(user["name"], user["vector"])))


def query_batch(client: Client, make_user: MakeUser) -> None:
    users = json.loads((DATA / "users_batch.json").read_bytes())
    results = list(client.batch(make_user(user["name"], user["vector"]) for user in users))
    for user, result in zip(users[:SHOWN_OF_A_BATCH], results, strict=False):
        show(user, result)
    failed = sum(isinstance(result, UserError) for result in results)
    print(f"... {len(results):,} users answered, {failed} failed; the first {SHOWN_OF_A_BATCH} are shown")


def show(user: dict[str, Any], result: Answer | UserError) -> None:
    print(f"{user['name']} likes {', '.join(user['likes'])}")
    if isinstance(result, UserError):
        print(f"  failed: {result.error.detail}\n")
        return
    print(f"  {'best':<48}worst")
    for best, worst in zip_longest(result.best, result.worst):
        print(f"  {label(best):<48}{label(worst)}".rstrip())
    print()


def label(match: Match | None) -> str:
    return "" if match is None else f"{match.score:.3f}  {match.name}"


if __name__ == "__main__":
    main()
