"""Errors of the service, before one is translated into a status at the edge (`http/problems.py`)."""

from dataclasses import dataclass

INSTALL_MILVUS = "`pip install pymilvus`, or `make install-milvus` in a checkout"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a request; `pointer` is the JSON pointer to it."""

    code: str
    detail: str
    pointer: str


@dataclass(frozen=True, slots=True)
class FailedUser:
    """The answer to a user of a batch that does not fit the contract: its first fault."""

    name: str | None
    error: Fault


class ServiceError(Exception):
    """Base of all errors that are not bugs; the message is fit for a client."""


class BadSetting(ServiceError):
    """An environment variable has a value that cannot be used."""


class CannotServe(ServiceError):
    """The worker processes do not start."""


class CannotPublish(ServiceError):
    """A build is not published to the engine's cluster, and what was served there still is."""


class EngineUnavailable(ServiceError):
    """The engine's cluster does not answer in time, or answers with an error; the message is for the log."""


class BadBatch(ServiceError):
    """An offline batch that cannot be run: its input, its output or an option."""


class TooManyErrors(ServiceError):
    """An offline batch that is complete, and of whose users more have an error than may."""


class BadBody(ServiceError):
    """A request body that is not JSON."""


class UnsupportedEncoding(ServiceError):
    """A request body in a content coding that is not read."""


class TooLarge(ServiceError):
    """A request that asks for more than the limits allow."""


class OutOfMemory(ServiceError):
    """A request whose body becomes more than there is room for beside the others."""


class CannotLookUp(ServiceError):
    """A question about products to an engine that does not look them up."""


class CannotFilter(ServiceError):
    """An option of a request that needs the fields of products, to an engine that does not have them."""


class UnknownProduct(ServiceError):
    """An id that no product has."""


class UnknownField(ServiceError):
    """A name that none of the fields to filter by has."""


class NoReport(ServiceError):
    """A question for the report of a build that is served without one."""


class Unauthorized(ServiceError):
    """A request without a valid API key."""


class ForeignHost(ServiceError):
    """A request for another host."""


class ForeignOrigin(ServiceError):
    """A request from a page of another origin."""


class BadRequest(ServiceError):
    """JSON that does not fit the contract, with every fault found."""

    def __init__(self, faults: list[Fault]):
        super().__init__("; ".join(fault.detail for fault in faults))
        self.faults = faults
