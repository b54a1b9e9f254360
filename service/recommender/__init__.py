"""The use case: users in, their best and worst products out. Knows no HTTP and no JSON."""

from retrieval.search.reranking.request import MAX_USERS_PER_SEARCH
from service.recommender.answers import Answer, Matches, Outcome, Recommendation
from service.recommender.embedding_model import find_mismatch
from service.recommender.live_recall import LiveRecall
from service.recommender.recommender import Recommender, Serving
from service.recommender.users import User, UserBlock

__all__ = [
    "MAX_USERS_PER_SEARCH",
    "Answer",
    "LiveRecall",
    "Matches",
    "Outcome",
    "Recommendation",
    "Recommender",
    "Serving",
    "User",
    "UserBlock",
    "find_mismatch",
]
