"""A standing attack on the server: `python tests/attack/run.py [--minutes 20] [--seed 0]`.

Loopback only, and within its time. It asks what no client should ask, one request at a time to see what each costs,
then many at once; swaps versions that are copied slowly under load; kills exports in mid-write and damages servables.
It prints a table of counts. Exit code 1 where the server ended, answered 500 or INTERNAL, lost or changed an answer,
took more than a bound of memory or time for one request, or grew.
"""

import argparse
import collections
import http.client
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import keras
import psutil
from PIL import Image

import resnet_keras as rk
from resnet_keras.errors import UsageError
from resnet_keras.export.integrity import check_files
from resnet_keras.serving.process import ServerProcess, server_process

sys.path.insert(0, str(Path(__file__).parents[1]))
from serving_models import half_plus

sys.path.insert(0, str(Path(__file__).parent))
import wire

MEMORY_FLOOR, MEMORY_TIMES = 96 << 20, 64
"""Bytes that a request may take beside `MEMORY_TIMES` its own."""
IMAGE_MEMORY = 900 << 20
"""Of an image of the largest size that is decoded: its pixels, and as float32 while they are resized."""
SECONDS_FLOOR, SECONDS_A_MEGABYTE = 3.0, 4.0
ANSWER = {"instances": [2.0]}


class Attack:
    """What was counted, and what went wrong.

    Args:
        folder: of the models.
        seed: of everything that is drawn.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.counts: collections.Counter[str] = collections.Counter()
        self.faults: list[str] = []

    def fault(self, words: str) -> None:
        self.counts["faults"] += 1
        if len(self.faults) < 50:
            self.faults.append(words)

    def cost(self, server: ServerProcess, image: Callable[..., bytes]) -> None:
        """One nasty request after the other, and the peak of memory and the time of each."""
        process = psutil.Process(server.process.pid)
        for one in wire.nasty(image):
            before, started = process.memory_info().rss, sum(process.cpu_times()[:2])
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the peak is measured anew
            status = self.ask(server, one)
            peak = _peak(process.pid) - before
            seconds = sum(process.cpu_times()[:2]) - started
            floor = IMAGE_MEMORY if "image" in one.name or "pixels" in one.name else MEMORY_FLOOR
            allowed = floor + MEMORY_TIMES * len(one.body)
            self.counts["requests whose cost was measured"] += 1
            print(f"  {one.name:45} {len(one.body):>9,} B {peak / 2**20:8.0f} MiB {seconds:6.2f} s  {status}")
            if peak > allowed:
                self.fault(f"{one.name}: {peak:,} bytes of memory for {len(one.body):,}")
            if seconds > SECONDS_FLOOR + SECONDS_A_MEGABYTE * len(one.body) / 2**20:
                self.fault(f"{one.name}: {seconds:.1f} s of CPU for {len(one.body):,} bytes")

    def ask(self, server: ServerProcess, one: wire.Nasty) -> str:
        if one.kind == "grpc":
            return self.call(server, "/tensorflow.serving.PredictionService/Predict", one.body, one.name)
        model = "digits" if b'"image_bytes"' in one.body[:60] else "half"
        return self.post(server, "POST", f"/v1/models/{model}:predict", one.body, one.name)

    def post(self, server: ServerProcess, method: str, path: str, body: bytes, name: str) -> str:
        host, port = server.rest.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=90)
        try:
            connection.putrequest(method, path.replace(" ", "%20"))
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            self.fault(f"{name}: {type(error).__name__} {error} ({method} {path})")
            return "lost"
        finally:
            connection.close()
        self.counts[f"REST {status}"] += 1
        if status == 500:
            self.fault(f"{name}: 500 ({method} {path} {body[:200]!r})")
        return str(status)

    def call(self, server: ServerProcess, method: str, data: bytes, name: str) -> str:
        with grpc.insecure_channel(server.grpc) as channel:
            try:
                channel.unary_unary(method)(data, timeout=90)
                code = "OK"
            except grpc.RpcError as error:
                code = error.code().name  # type: ignore[attr-defined]
        self.counts[f"gRPC {code}"] += 1
        if code in ("INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED"):
            self.fault(f"{name}: {code} ({method} {data[:200]!r})")
        return code

    def fuzz(self, server: ServerProcess, seconds: float, image: bytes) -> None:
        """Drawn requests from four threads, beside one that asks properly and must be answered."""
        end, process = time.monotonic() + seconds, psutil.Process(server.process.pid)
        methods = [
            f"/tensorflow.serving.PredictionService/{name}" for name in ("Predict", "Classify", "MultiInference")
        ]
        methods += [
            "/tensorflow.serving.ModelService/GetModelStatus",
            "/grpc.health.v1.Health/Check",
            "/no.Such/Method",
        ]

        def draw(number: int) -> None:
            drawn = random.Random(f"{self.seed} {number}")
            while time.monotonic() < end:
                kind = drawn.random()
                if kind < 0.5:
                    self.post(server, *wire.rest(drawn, image), f"fuzz of thread {number}")
                elif kind < 0.9:
                    self.call(server, drawn.choice(methods), wire.message(drawn, image), f"fuzz of thread {number}")
                else:
                    self.hardly_http(server, wire.raw(drawn))

        def properly() -> None:
            while time.monotonic() < end:
                self.expect(server, {3.0})
                time.sleep(0.02)

        _together([lambda n=n: draw(n) for n in range(4)] + [properly])
        self.settled(process, "fuzz")

    def hardly_http(self, server: ServerProcess, data: bytes) -> None:
        host, port = server.rest.split(":")
        with socket.create_connection((host, int(port)), 5) as client:
            client.settimeout(0.2)
            try:
                client.sendall(data)
                said = client.recv(100)
            except OSError:
                said = b""
        self.counts["connections that are hardly HTTP"] += 1
        if b" 500 " in said[:20]:
            self.fault(f"500 for {data[:200]!r}")

    def expect(self, server: ServerProcess, values: set[float]) -> None:
        """Ask what has an answer. A refusal for want of room is none."""
        host, port = server.rest.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        try:
            connection.request("POST", "/v1/models/half:predict", json.dumps(ANSWER))
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.fault(f"a proper request was lost: {error!r}")
            return
        finally:
            connection.close()
        self.counts[f"proper requests {response.status}"] += 1
        if response.status != 503 and (response.status != 200 or json.loads(body)["predictions"][0] not in values):
            self.fault(f"a proper request: {response.status} {body[:200]!r}")

    def swaps(self, server: ServerProcess, seconds: float) -> None:
        """New versions, copied file by file and slowly into their folders, while four clients ask."""
        end, version = time.monotonic() + seconds, 1
        values, process = {3.0}, psutil.Process(server.process.pid)

        def ask() -> None:
            while time.monotonic() < end:
                self.expect(server, values)

        def swap() -> None:
            nonlocal version
            while time.monotonic() < end:
                version += 1
                values.add(1.0 + version)
                made = half_plus(float(version), self.folder / f"made-{version}")
                folder = self.folder / "half" / str(version)
                folder.mkdir()
                data = (made / "saved_model.pb").read_bytes()
                for place in range(0, len(data), max(1, len(data) // 5)):
                    with (folder / "saved_model.pb").open("ab") as file:
                        file.write(data[place : place + max(1, len(data) // 5)])
                    time.sleep(0.1)
                time.sleep(1.5)
                old = self.folder / "half" / str(version - 1)
                shutil.rmtree(old, ignore_errors=True)
                self.counts["versions swapped"] += 1

        _together([ask] * 4 + [swap])
        self.settled(process, "swaps")

    def settled(self, process: psutil.Process, after: str) -> None:
        """Memory and open files, once it is quiet."""
        time.sleep(3)
        self.counts[f"MiB resident after {after}"] = process.memory_info().rss >> 20
        self.counts[f"open files after {after}"] = process.num_fds()
        if process.num_fds() > 200:
            self.fault(f"{process.num_fds()} open files after {after}")

    def kills(self, model: Path, seconds: float) -> None:
        """Exports that are killed: a version is whole, or it is not there."""
        end, drawn, base = time.monotonic() + seconds, random.Random(self.seed), self.folder / "killed"
        words = [sys.executable, "-m", "resnet_keras", "export", str(model), "--output", str(base)]
        while time.monotonic() < end:
            process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(drawn.uniform(4, 14))
            process.send_signal(signal.SIGKILL)
            process.wait()
            self.counts["exports killed"] += 1
            for version in base.glob("[0-9]*"):
                try:
                    check_files(version)
                except UsageError as error:
                    self.fault(f"a killed export left {error}")

    def damages(self, servable: Path, count: int) -> None:
        """Damaged servables must be refused."""
        drawn = random.Random(self.seed)
        for number in range(count):
            copy = self.folder / "damaged"
            shutil.copytree(servable, copy)
            path = drawn.choice(sorted(path for path in copy.rglob("*") if path.is_file()))
            before = path.read_bytes()
            path.write_bytes(wire.damaged(drawn, before))
            self.counts["servables damaged"] += 1
            try:
                if path.read_bytes() != before and check_files(copy) is not None and path.name != "manifest.json":
                    self.fault(f"damage {number} of {path.name} was not seen")
            except UsageError:
                self.counts["damages refused"] += 1
            shutil.rmtree(copy)


def _peak(number: int) -> int:
    for line in Path(f"/proc/{number}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def _together(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _encoded(kind: str, height: int, width: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 90)).save(file, kind)
    return file.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    Image.MAX_IMAGE_PIXELS = None
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        half_plus(2, folder / "half" / "1")
        keras.utils.set_random_seed(0)
        model = rk.build_cifar_resnet(
            8, input_shape=(8, 8, 1), include_preprocessing=rk.ModelCard(mean=(0.3,), std=(0.4,))
        )
        model.save(folder / "model.keras")
        servable = rk.export_servable(model, folder / "digits", labels=[str(digit) for digit in range(10)])
        (folder / "models.config").write_text(
            "model_config_list { "
            + " ".join(f'config {{ name: "{name}" base_path: "{folder}/{name}" }}' for name in ("half", "digits"))
            + " }"
        )
        attack, minute = Attack(folder, arguments.seed), 60 * arguments.minutes
        with server_process(["--model_config_file", str(folder / "models.config")]) as server:
            for work in (
                lambda: attack.cost(server, _encoded),
                lambda: attack.fuzz(server, 0.4 * minute, _encoded("PNG", 9, 7)),
                lambda: attack.swaps(server, 0.25 * minute),
            ):
                work()
                if server.process.poll() is not None:
                    attack.fault(f"the server ended: {server.process.returncode}")
                    break
        attack.damages(servable, 200)
        attack.kills(folder / "model.keras", 0.2 * minute)
    print("\n".join(f"{count:>9,}  {name}" for name, count in sorted(attack.counts.items())))
    print("\n".join(attack.faults) or f"no faults, seed {arguments.seed}")
    return bool(attack.faults)


if __name__ == "__main__":
    sys.exit(main())
