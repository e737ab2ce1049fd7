"""A local S3 server."""

import contextlib
import logging
import os
import urllib.request
from collections.abc import Iterator
from typing import Any

from data_prep.storage import as_path

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "NO_PROXY": "127.0.0.1",
}


@contextlib.contextmanager
def s3_server(environment: Any) -> Iterator[Any]:
    """Starts a server, points AWS's clients to it, and yields `s3://bucket`."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        url = f"http://127.0.0.1:{port}"
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": url}.items():
            environment.setenv(name, value)
        # Servers of one process share what they hold; this one starts empty.
        urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset", method="POST"), timeout=60).close()
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        bucket = as_path("s3://bucket")
        bucket.fs.mkdir("bucket")
        yield bucket
        s3fs.S3FileSystem.clear_instance_cache()
    finally:
        server.stop()
