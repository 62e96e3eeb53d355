"""The errors of requests: TensorFlow's status codes, and HTTP's for each (TensorFlow Serving's http_server.cc)."""

import contextlib
import logging
from collections.abc import Iterator
from enum import IntEnum
from http import HTTPStatus

import tensorflow as tf

from resnet_keras.errors import plain_words

log = logging.getLogger(__name__)


class Code(IntEnum):
    """Status codes, numbered as in gRPC and in TensorFlow's errors."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


HTTP = {
    Code.OK: HTTPStatus.OK,
    Code.CANCELLED: 499,
    Code.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    Code.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
    Code.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Code.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    Code.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    Code.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    Code.FAILED_PRECONDITION: HTTPStatus.BAD_REQUEST,
    Code.ABORTED: HTTPStatus.CONFLICT,
    Code.OUT_OF_RANGE: HTTPStatus.BAD_REQUEST,
    Code.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    Code.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
}
"""Other codes are 500."""


class ServingError(Exception):
    """The error of a request: a code and a message for the client."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message

    @property
    def http(self) -> int:
        return int(HTTP.get(self.code, HTTPStatus.INTERNAL_SERVER_ERROR))

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


def invalid(message: str) -> ServingError:
    """An error with the code INVALID_ARGUMENT."""
    return ServingError(Code.INVALID_ARGUMENT, message)


@contextlib.contextmanager
def tensorflow_errors() -> Iterator[None]:
    """Within it, an error of TensorFlow's is a `ServingError` of its code."""
    try:
        yield
    except tf.errors.OpError as error:
        raise ServingError(Code(error.error_code), plain_words(error.message)) from error


@contextlib.contextmanager
def internal_errors() -> Iterator[None]:
    """Within it, an exception that is no `ServingError` is logged as a fault of the server, and is INTERNAL."""
    try:
        yield
    except ServingError:
        raise
    except Exception as fault:
        log.exception("a request failed by a fault of the server's")
        raise ServingError(Code.INTERNAL, f"{type(fault).__name__}: {fault}") from fault
