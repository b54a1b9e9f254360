"""Send the sample users to a running service and print what fits them best and worst."""

import argparse
import json
import signal
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
SHOWN_OF_A_BATCH = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://localhost:5000", help="the service (default: %(default)s)")
    parser.add_argument("--batch", action="store_true", help="send data/users_batch.json to /batch in one request")
    options = parser.parse_args()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `query.py | head` ends quietly
    query = query_batch if options.batch else query_one_by_one
    try:
        query(options.url)
    except urllib.error.HTTPError as error:
        sys.exit(f"{options.url} answered {error.code}: {error.read().decode()}")
    except (urllib.error.URLError, TimeoutError) as error:
        sys.exit(f"no answer from {options.url} ({error}); is the service running? `make serve` starts it")


def query_one_by_one(url: str) -> None:
    for line in (DATA / "users.json").read_text().splitlines():
        show(json.loads(line), post(f"{url}/infer", line.encode()))


def query_batch(url: str) -> None:
    body = (DATA / "users_batch.json").read_bytes()
    users, answers = json.loads(body), post(f"{url}/batch", body)
    for user, answer in zip(users[:SHOWN_OF_A_BATCH], answers, strict=False):
        show(user, answer)
    failed = sum("error" in answer for answer in answers)
    print(f"... {len(answers):,} users answered, {failed} failed; the first {SHOWN_OF_A_BATCH} are shown")


def post(url: str, body: bytes) -> Any:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 (the user's own URL)
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
        return json.load(response)


def show(user: dict[str, Any], answer: dict[str, Any]) -> None:
    print(f"{user['name']} likes {', '.join(user['likes'])}")
    if "error" in answer:
        print(f"  failed: {answer['error']['detail']}\n")
        return
    print(f"  {'best':<48}worst")
    for best, worst in zip(answer["best"], answer["worst"], strict=True):
        print(f"  {label(best):<48}{label(worst)}")
    print()


def label(match: dict[str, Any]) -> str:
    return f"{match['score']:.3f}  {match['name']}"


if __name__ == "__main__":
    main()
