"""A server of Google Cloud Storage of this machine, which TensorFlow's gs:// reaches in the place of Google's.

TensorFlow knows no other address than Google's own. So its HTTPS goes to a proxy, as in a company's network, which has
a certificate for those names and hands the requests on to gcp-storage-emulator.
"""

import datetime
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from gcp_storage_emulator import server as emulator
from small import free_ports

HOSTS = ("www.googleapis.com", "storage.googleapis.com")


@contextmanager
def gs_server(folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which gs:// is this server; it has a bucket, `bucket`."""
    certificate, key = _certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    (port,) = free_ports(1)
    logging.getLogger("gcp_storage_emulator").setLevel(logging.ERROR)
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    server.start()
    read = emulator._read_raw_data

    def read_chunks(request: Any) -> bytes | None:
        if request.headers.get("Transfer-Encoding") == "chunked":  # TensorFlow gives the length too, which counts less
            del request.headers["Content-Length"]
        return read(request)

    emulator._read_raw_data = read_chunks
    listening = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listening, context, port), daemon=True).start()
    proxy = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        # The certificate is its own authority.
        yield {"https_proxy": proxy, "CURL_CA_BUNDLE": str(certificate), "NO_GCE_CHECK": "true"}
    finally:
        listening.close()
        server.stop()
        emulator._read_raw_data = read


def _accept(listening: socket.socket, context: ssl.SSLContext, port: int) -> None:
    while True:
        try:
            client, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(client, context, port), daemon=True).start()


def _serve(client: socket.socket, context: ssl.SSLContext, port: int) -> None:
    with suppress(OSError), client:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with (
            context.wrap_socket(client, server_side=True) as secure,
            socket.create_connection(("127.0.0.1", port)) as there,
        ):
            back = threading.Thread(target=_copy, args=(there, secure), daemon=True)
            back.start()
            _copy(secure, there)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            # Where an upload is to go: the emulator does not know that it is reached over TLS.
            target.sendall(data.replace(b"Location: http://", b"Location: https://"))
        target.shutdown(socket.SHUT_WR)


def _certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths
