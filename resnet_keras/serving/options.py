"""The server's flags: TensorFlow Serving's flags. Standard library only, so that help does not wait."""

import dataclasses
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from resnet_keras.errors import UsageError, require

IMAGE = "tensorflow/serving:2.20.0"
"""The newest TensorFlow Serving that is released: what our files and docs run in Docker."""


@dataclass(frozen=True)
class ServerOptions:
    """Serve models over TensorFlow Serving's API: gRPC, REST and a page to try them on."""

    port: int = 8500
    """The port of gRPC; 0 for none."""
    rest_api_port: int = 8501
    """The port of REST and the page; 0 for none."""
    host: str = "127.0.0.1"
    """The address to listen at. 0.0.0.0, TensorFlow Serving's own, admits other machines."""
    model_name: str = "default"
    """The name of the model at --model_base_path."""
    model_base_path: str | None = None
    """The folder of its version folders; s3://BUCKET/NAME and gs://BUCKET/NAME are remote ones."""
    model_config_file: str | None = None
    """A text ModelServerConfig; saved_models/models.config where neither a file nor a base path is given."""
    model_config_file_poll_wait_seconds: int = 0
    """Seconds between two looks at that file; 0 to read it once."""
    allow_version_labels_for_unavailable_models: bool = False
    """Labels may name versions that are not loaded yet."""
    file_system_poll_wait_seconds: int = 1
    """Seconds between two looks for versions; 0 to look once."""
    max_num_load_retries: int = 5
    """Times to try again after a version fails to load."""
    load_retry_interval_micros: int = 60_000_000
    """Microseconds between two tries."""
    enable_batching: bool = False
    """Put requests that wait together into one batch."""
    batching_parameters_file: str | None = None
    """A text BatchingParameters."""
    monitoring_config_file: str | None = None
    """A text MonitoringConfig, which turns Prometheus metrics on."""
    ssl_config_file: str | None = None
    """A text SSLConfig, with the PEM texts themselves, for gRPC. REST has no TLS, as in TensorFlow Serving."""
    enable_model_warmup: bool = True
    """Send a version its recorded requests before it is available."""
    num_request_iterations_for_warmup: int = 1
    """Times each of them is sent."""
    rest_api_num_threads: int = 0
    """REST requests that run at a time; 0 chooses by the number of cores."""
    rest_api_timeout_in_ms: int = 30_000
    """Milliseconds that a REST request may take."""
    rest_api_enable_cors_support: bool = False
    """Allow requests from pages of other origins (CORS)."""
    grpc_max_threads: int = 0
    """gRPC requests that run at a time; 0 chooses by the number of cores."""
    tensorflow_session_parallelism: int = 0
    """Threads of a session, both within an operation and between operations."""
    tensorflow_intra_op_parallelism: int = 0
    """Threads within an operation."""
    tensorflow_inter_op_parallelism: int = 0
    """Operations at a time."""
    max_request_bytes: int = 64 << 20
    """The largest request; not a flag of TensorFlow Serving."""
    max_waiting_requests: int = 256
    """Requests that may run or wait; more are refused as UNAVAILABLE. Not a flag of TensorFlow Serving."""
    max_request_strings: int = 1024
    """Strings in a request: encoded images, each of which may be of a few bytes and become one of the network's size.
    Not a flag of TensorFlow Serving."""
    verify_files: bool = True
    """Load no version whose files differ from its manifest's SHA-256. Not a flag of TensorFlow Serving."""
    allowed_origins: tuple[str, ...] = ()
    """Origins, https://page.example, whose pages may send requests besides the server's own; * for all."""
    allow_reload_config: Literal["loopback", "true", "false"] = "loopback"
    """Whether ReloadConfig is answered, which loads any folder: by default where --host is a loopback address."""
    quiet: bool = False
    """Only warnings on standard error."""

    def check(self) -> None:
        """Raise `UsageError` for a flag that is out of range, or flags that exclude each other."""
        for name in ("port", "rest_api_port"):
            require(0 <= getattr(self, name) < 65536, name, "a port from 0 to 65535", getattr(self, name))
        if not self.port and not self.rest_api_port:
            raise UsageError("port and rest_api_port are both 0; nothing would be served")
        if self.port == self.rest_api_port:
            raise UsageError(f"port and rest_api_port are both {self.port}; give each its own")
        whole = ("max_request_bytes", "max_request_strings", "max_waiting_requests", "rest_api_timeout_in_ms")
        for name in (*whole, "num_request_iterations_for_warmup"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        threads = (
            "tensorflow_session_parallelism",
            "tensorflow_intra_op_parallelism",
            "tensorflow_inter_op_parallelism",
        )
        waits = ("model_config_file_poll_wait_seconds", "file_system_poll_wait_seconds", "max_num_load_retries")
        for name in (*threads, *waits, "rest_api_num_threads", "grpc_max_threads"):
            require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        if self.tensorflow_session_parallelism and (
            self.tensorflow_intra_op_parallelism or self.tensorflow_inter_op_parallelism
        ):
            raise UsageError("give tensorflow_session_parallelism, or the intra_op and inter_op ones, not both")
        if self.batching_parameters_file and not self.enable_batching:
            raise UsageError("batching_parameters_file is of use with --enable_batching only")

    def reloads_config(self) -> bool:
        """Whether ReloadConfig is answered."""
        return self.allow_reload_config == "true" or (self.allow_reload_config == "loopback" and is_loopback(self.host))

    def workers(self, given: int) -> int:
        """Requests that run at a time: the value of a flag, or enough to keep the cores busy where it is 0."""
        return given or (64 if self.enable_batching else 4 * (os.cpu_count() or 1))

    def config_file(self) -> Path | None:
        """The model configuration to read; None where a base path is given instead."""
        if self.model_config_file:
            return Path(self.model_config_file).expanduser()
        if self.model_base_path:
            return None
        found = Path("saved_models", "models.config")
        if not found.is_file():
            raise UsageError(
                "give --model_base_path or --model_config_file; there is no saved_models/models.config here"
            )
        return found


def is_loopback(host: str) -> bool:
    """Whether an address, or the name localhost, leads to this computer only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def in_tyro_form(words: list[str]) -> list[str]:
    """TensorFlow Serving's `--flag=true` and `--flag=false` as flags that are there or not."""
    switches = {field.name for field in dataclasses.fields(ServerOptions) if field.type is bool}
    formed = []
    for word in words:
        name, _, value = word.partition("=")
        if name[2:].replace("-", "_") in switches and value.lower() in ("true", "false"):
            formed.append(name if value.lower() == "true" else f"--no-{name[2:]}")
        else:
            formed.append(word)
    return formed
