"""The views of all operations, one module a group."""

from service.http.routes.base import View
from service.http.routes.lookups import Lookups
from service.http.routes.open_inference import OpenInference
from service.http.routes.operations import Operations
from service.http.routes.pages import page_views
from service.http.routes.recommendations import Recommendations
from service.recommender import Serving
from service.settings import Settings


def views_of(serving: Serving, settings: Settings) -> dict[str, View]:
    """Return the view of each operation, by the operation's id."""
    groups = (Recommendations(settings), Lookups(settings), OpenInference(settings), Operations(settings, serving))
    return page_views() | {name: view for group in groups for name, view in group.views().items()}
