"""Object storage that is away is waited for; what is wrong with an address or its credentials is told at once."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from maws_composer.config.problems import ConfigError, ForeseenError, Problem

Result = TypeVar("Result")
log = logging.getLogger(__name__)

_LONGEST_PAUSE = 30.0  # seconds
_UNREACHABLE = {errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH}
_LATER = {408, 425, 429}  # of HTTP's 4xx: too slow, too early, too many requests
_MISTAKES = (ArithmeticError, AttributeError, ImportError, LookupError, NotImplementedError, TypeError, ValueError)
_MISTAKES_BY_NAME = {  # of libraries that are slow to import
    "CloudPathException", "DefaultCredentialsError", "NoCredentialsError", "ParamValidationError",
    "PartialCredentialsError", "ProfileNotFound",
}  # fmt: skip


class StorageError(ForeseenError):
    """Object storage did not answer, or failed, for as long as the configuration allows."""


class OutageError(ConfigError):
    """Something is not readable or writable now that may be soon. For a command that does not wait, a mistake."""


def insist(
    action: Callable[[], Result],
    what: str,
    patience: float,
    stop: threading.Event | None = None,
    unless: Callable[[Exception], bool] = lambda error: False,
) -> Result:
    """Do something with object storage until it succeeds, with growing pauses.

    Args:
        action: may be done twice.
        what: for messages.
        patience: seconds from the first failure on.
        stop: gives up when it is set.
        unless: which errors are raised at once.

    Raises:
        StorageError: storage failed for longer than `patience`.
    """
    stop = stop or threading.Event()
    failing_since, pause = None, 1.0
    while True:
        if stop.is_set():
            raise StorageError(f"{what}: given up")
        try:
            return action()
        except Exception as error:  # each storage library has exceptions of its own
            if unless(error):
                raise
            failing_since = failing_since or time.monotonic()
            away = time.monotonic() - failing_since
            if stop.is_set() or away > patience:
                raise StorageError(
                    f"{what}: object storage failed for {away:.0f} s, the limit is "
                    f"storage_patience = {patience:.0f} s; the same command resumes the run. Last: {error}"
                ) from error
            log.warning("%s: %s; trying again in %.0f s", what, error, pause)
            stop.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def refused(error: Exception, problem: Problem) -> ConfigError:
    """What to raise about an address that cannot be read or written."""
    return ConfigError([problem]) if is_mistake(error) else OutageError([problem])


def problems_of_mistake(error: ConfigError) -> list[Problem]:
    """What is wrong, by an error of reading something in storage.

    Raises:
        OutageError: it is no mistake, but storage that is away.
    """
    if not is_mistake(error):
        raise OutageError(error.problems) from error
    return error.problems


def is_mistake(error: BaseException) -> bool:
    """Whether an error will come again however often it is tried: access denied, no such bucket, no credentials.

    The first of it and of its causes that tells decides. What none of them tells is taken for an outage, since each
    storage library has exceptions of its own, but for what we have called a mistake.
    """
    told = _told(error)
    return isinstance(error, ConfigError) if told is None else told


def is_no_outage(error: BaseException) -> bool:
    """The same of an action that may fail in other ways than by storage: what none tells is no outage then."""
    return _told(error) is not False


def _told(error: BaseException) -> bool | None:
    """What the first of an error and of its causes that tells it says, of whether it is a mistake."""
    return next((told for told in map(_tells, _causes(error)) if told is not None), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _tells(error: BaseException) -> bool | None:
    status = _http_status(error)
    if status is not None:
        return 400 <= status < 500 and status not in _LATER
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, ConnectionError | TimeoutError | OutageError) or "HTTPClientError" in names:
        return False
    if isinstance(error, OSError) and type(error).__module__ == "builtins":  # others are of libraries
        return error.errno not in _UNREACHABLE
    return True if isinstance(error, _MISTAKES) or names & _MISTAKES_BY_NAME else None


def _http_status(error: BaseException) -> int | None:
    """As botocore, Azure's and Google's libraries give it."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        if response.get("Error", {}).get("Code") == "RequestTimeout":  # S3 sends it with 400
            return 408
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    found = (getattr(error, name, None) for name in ("status_code", "code"))
    return next((int(status) for status in found if isinstance(status, int)), None)
