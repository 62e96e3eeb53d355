"""What stands before gRPC's methods: messages are read where they are answered, and streams hold up no one."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from resnet_keras.serving.room import Room
from resnet_keras.serving.status import ServingError

MOST_STREAMS = 16
STREAM_SECONDS = 60.0
"""Of a stream that holds a thread, which reflection's do; those of Health.Watch hold none and may last."""


class ReadInHandler(grpc.ServerInterceptor):
    """Parses messages in the thread that answers them, within a bound of bytes.

    gRPC parses them earlier. For one that cannot be parsed, a thread of the pool then waits as long as the connection
    lasts, and eight such messages block the server (grpcio 1.85, `_server.py`).

    A thread also waits for its message, which a client may send slowly or never. So there are as many threads as
    requests, and this bounds those that run.

    Args:
        room: what the messages under way take of the server's memory.
        most: requests that run at a time.
    """

    def __init__(self, room: Room, most: int) -> None:
        self._room, self._running = room, threading.BoundedSemaphore(most)

    def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        handler: Any = continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler

        def read(data: bytes, context: grpc.ServicerContext) -> Any:
            try:
                return handler.request_deserializer(data)
            except Exception:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no message for {handler_call_details.method}")

        if handler.response_streaming:

            def stream(data: bytes, context: grpc.ServicerContext, *send: Any) -> Any:
                return handler.unary_stream(read(data, context), context, *send)

            marked = _marked(stream, holds_no_thread=_holds_no_thread(handler.unary_stream))
            return grpc.unary_stream_rpc_method_handler(marked, None, handler.response_serializer)

        def unary(data: bytes, context: grpc.ServicerContext) -> Any:
            try:
                self._room.take(len(data))
            except ServingError as error:
                context.abort(grpc.StatusCode.UNAVAILABLE, error.message)
            try:
                with self._running:
                    return handler.unary_unary(read(data, context), context)
            finally:
                self._room.give(len(data))

        return grpc.unary_unary_rpc_method_handler(unary, None, handler.response_serializer)


class Streams(grpc.ServerInterceptor):
    """Gives streams threads of their own, bounds their number, and ends them when the server stops.

    Eight streams that nobody ended left no thread to answer a request, and one of them made a stop wait for a minute.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(MOST_STREAMS + 1, "streams")  # the last one refuses
        self._open: set[grpc.ServicerContext] = set()
        self._lock = threading.Lock()

    def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        handler: Any = continuation(handler_call_details)
        if handler is None or not handler.response_streaming:
            return handler
        behaviour: Callable[..., Any] = handler.stream_stream or handler.unary_stream
        holds_no_thread = _holds_no_thread(behaviour)

        def stream(request: Any, context: grpc.ServicerContext, *send: Any) -> Any:
            self._admit(context, None if holds_no_thread else STREAM_SECONDS)
            return behaviour(request, context, *send)

        marked = _marked(stream, holds_no_thread=holds_no_thread, pool=self._pool)
        make = grpc.stream_stream_rpc_method_handler if handler.stream_stream else grpc.unary_stream_rpc_method_handler
        return make(marked, handler.request_deserializer, handler.response_serializer)

    def _admit(self, context: grpc.ServicerContext, seconds: float | None) -> None:
        with self._lock:
            full = len(self._open) >= MOST_STREAMS
            if not full:
                self._open.add(context)
        if full:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MOST_STREAMS} streams are open, which is the most")
        timer = threading.Timer(seconds, context.cancel) if seconds else None

        def ended() -> None:
            if timer:
                timer.cancel()
            with self._lock:
                self._open.discard(context)

        if not context.add_callback(ended):
            ended()
        elif timer:
            timer.daemon = True
            timer.start()

    def close(self) -> None:
        """End all that are open."""
        with self._lock:
            contexts = list(self._open)
        for context in contexts:
            context.cancel()
        self._pool.shutdown(wait=False)


def _holds_no_thread(behaviour: Any) -> bool:
    return getattr(behaviour, "experimental_non_blocking", False)


def _marked(behaviour: Any, *, holds_no_thread: bool, pool: ThreadPoolExecutor | None = None) -> Any:
    """As gRPC's server looks for it (grpcio 1.85, `_server.py`)."""
    behaviour.experimental_non_blocking, behaviour.experimental_thread_pool = holds_no_thread, pool
    return behaviour
