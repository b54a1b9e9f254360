"""The views of all operations, one module a group."""

from service.http.routes.lookups import Lookups
from service.http.routes.open_inference import OpenInference
from service.http.routes.operations import Operations
from service.http.routes.pages import page_views
from service.http.routes.recommendations import Recommendations
from service.http.wsgi import View
from service.recommender import Serving
from service.settings import Settings


def views_of(serving: Serving, settings: Settings) -> dict[str, View]:
    """The view of each operation, by the operation's id."""
    views: dict[str, View] = page_views()
    for group in (Recommendations, Lookups, OpenInference, Operations):
        views |= group(serving, settings).views()
    return views
