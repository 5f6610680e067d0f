"""Remote byte ranges: our reader against obstore's own ``get_ranges``, on loopback HTTP and on S3 (moto).

    python benchmarks/remote_ranges.py [--rounds 5] [--out benchmarks/remote_ranges.json]

One file of 64 MiB, two ways to read it: 256 scattered ranges of 64 KiB (chunks of a shuffled epoch), and one block of
32 MiB. Three readers side by side in every round:

* ``ours``: `open_remote(...).read_ranges`: joins ranges, tries again with a counter, asks with If-Match for the version
  that was seen first;
* ``obstore``: ``obstore.get_ranges``: joins ranges, tries again without a counter, takes no options and gives no
  metadata: a replaced file is not noticed;
* ``obstore and ETag``: the same between two HEAD requests whose ETags are compared: the nearest to the pinning of ours.

The servers run in processes of their own. A loopback shows the work of the client, not the waiting for a real network.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import obstore
from obstore.store import from_url

from scmf.core.files import write_json
from scmf.core.provenance import collect
from scmf.data.stores.files.remote import open_remote

SIZE, RANGE, N_RANGES, BLOCK = 64 << 20, 64 << 10, 256, 32 << 20
NAME = "counts.bin"
KEYS = {"access_key_id": "testing", "secret_access_key": "testing", "region": "us-east-1"}


def content() -> bytes:
    """The file."""
    return np.random.default_rng(0).bytes(SIZE)


def serve_http() -> None:
    """The file behind HTTP/1.1 with ranges, ETag and If-Match; prints its port."""
    data = content()
    etag = f'"{md5(data).hexdigest()}"'

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def log_message(self, *_):
            """Quiet."""

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, *, body):
            """A range or the whole file."""
            asked = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            start, stop = (int(asked[1]), min(int(asked[2]) + 1, SIZE)) if asked else (0, SIZE)
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{SIZE}")
            self.send_header("Content-Length", str(stop - start))
            self.send_header("Last-Modified", "Sun, 22 Nov 2026 22:08:28 GMT")
            self.send_header("ETag", etag)
            self.end_headers()
            if body:
                self.wfile.write(memoryview(data)[start:stop])
            self.wfile.flush()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


def serve_s3() -> None:
    """A moto server; prints its port."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    time.sleep(10**6)


def readers(url: str, options: dict) -> dict:
    """Name to a function that reads ranges and returns the bytes."""
    ours = open_remote(url, options)
    http = {"client_options": {"allow_http": True}}
    store = from_url(url, **http, **({"config": options} if options else {}))

    def read_ours(ranges):
        out = [bytearray(stop - start) for start, stop in ranges]
        ours.read_ranges(NAME, ranges, [memoryview(one) for one in out])
        return out

    def read_obstore(ranges):
        starts, stops = zip(*ranges, strict=True)
        return [bytes(one) for one in obstore.get_ranges(store, NAME, starts=starts, ends=stops)]

    def read_pinned(ranges):
        before = obstore.head(store, NAME)["e_tag"]
        found = read_obstore(ranges)
        if obstore.head(store, NAME)["e_tag"] != before:
            raise RuntimeError("the file was replaced")
        return found

    return {"ours": read_ours, "obstore": read_obstore, "obstore and ETag": read_pinned}


def measure(kind: str, rounds: int) -> list[dict]:
    """Rows of one server: median milliseconds of each reader, the readers taking turns in every round."""
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve", kind], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        address = f"http://127.0.0.1:{int(server.stdout.readline())}"
        options: dict = {}
        if kind == "s3":
            options, url = {**KEYS, "endpoint": address}, "s3://cells"
            urlopen(f"{address}/").close()
            import boto3

            keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
            client = boto3.client("s3", endpoint_url=address, **keys)
            client.create_bucket(Bucket="cells")
            client.put_object(Bucket="cells", Key=NAME, Body=content())
        else:
            url = address
        data = content()
        starts = np.sort(np.random.default_rng(1).choice(SIZE // RANGE, N_RANGES, replace=False)) * RANGE
        cases = {
            f"{N_RANGES} ranges of 64 KiB": [(int(start), int(start) + RANGE) for start in starts],
            "one block of 32 MiB": [(1 << 20, (1 << 20) + BLOCK)],
        }
        rows = []
        for case, ranges in cases.items():
            times: dict[str, list[float]] = {}
            for _ in range(rounds + 1):  # the first one connects and is left out
                for name, read in readers(url, options).items():
                    read(ranges[:1])
                    begun = time.perf_counter()
                    found = read(ranges)
                    times.setdefault(name, []).append(1e3 * (time.perf_counter() - begun))
                    wrong = [i for i, (start, stop) in enumerate(ranges) if found[i] != data[start:stop]]
                    if wrong:
                        raise RuntimeError(f"{name}: {len(wrong)} ranges hold other bytes")
            rows += [
                {"server": kind, "case": case, "reader": name, "ms": round(statistics.median(taken[1:]), 1)}
                for name, taken in times.items()
            ]
        return rows
    finally:
        server.kill()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--serve", choices=["http", "s3"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        {"http": serve_http, "s3": serve_s3}[asked.serve]()
        return
    rows = [row for kind in ("http", "s3") for row in measure(kind, asked.rounds)]
    print(json.dumps(rows, indent=1))
    write_json(asked.out, {"rounds": asked.rounds, "rows": rows, **collect(load=os.getloadavg()[0])})


if __name__ == "__main__":
    main()
