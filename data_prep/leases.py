"""A lock in an object store: an object that its holder renews, and that another may take once it has run out.

Writes are conditional (`If-None-Match`, `If-Match`), so of two that want it one gets it. A killed run's lease runs out
by itself. Clocks of machines that share a corpus must agree within some seconds.
"""

import contextlib
import json
import os
import secrets
import threading
import time
from collections.abc import Iterator
from typing import Any

from data_prep.errors import DataError

LEASE_S = 120.0
_PRECONDITIONS = "pre-conditions"


class _Lease:
    def __init__(self, path: Any, lease_s: float) -> None:
        self.path, self.lease_s = path, lease_s
        self.bucket, self.key, _ = path.fs.split_path(path.path)
        self.holder = f"process {os.getpid()} on {os.uname().nodename}"
        self.tag: str | None = None
        self.lost = False

    def take(self) -> None:
        """Raises `DataError` where another holds it."""
        if self._put(IfNoneMatch="*"):
            return
        try:
            tag = self.path.fs.info(self.path.path)["ETag"]
            stored = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return self.take()
        except ValueError:
            stored, tag = {}, tag
        left = stored.get("expires", 0) - time.time()
        if left > 0 or not self._put(IfMatch=tag):
            holder = stored.get("holder", "another process")
            raise DataError(
                f"{self.path.parent} is in use by {holder}: wait for it to end, or stop it; if it is dead already, its "
                f"hold ends in {max(1, round(left))} s"
            )

    def renew_until(self, ended: threading.Event) -> None:
        while not ended.wait(self.lease_s / 4):
            with contextlib.suppress(OSError):  # of the network; tried again
                if not self._put(IfMatch=self.tag):
                    self.lost = True
                    return

    def release(self) -> None:
        with contextlib.suppress(OSError):
            if self._put(IfMatch=self.tag):
                self.path.unlink(missing_ok=True)

    def _put(self, **condition: str) -> bool:
        """Writes the lease under a condition; False where it does not hold."""
        body = {"holder": self.holder, "expires": time.time() + self.lease_s, "token": secrets.token_hex(8)}
        try:
            answer = self.path.fs.call_s3(
                "put_object", Bucket=self.bucket, Key=self.key, Body=json.dumps(body).encode(), **condition
            )
        except FileExistsError:
            return False
        except OSError as error:
            if _PRECONDITIONS in str(error):
                return False
            raise
        self.tag = answer["ETag"]
        return True


@contextlib.contextmanager
def hold_lease(path: Any, lease_s: float = LEASE_S) -> Iterator[None]:
    """Holds the object `path` for this process. Raises `DataError` where another does, or took it meanwhile."""
    lease, ended = _Lease(path, lease_s), threading.Event()
    lease.take()
    renewing = threading.Thread(target=lease.renew_until, args=(ended,), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        if not lease.lost:
            lease.release()
    if lease.lost:
        raise DataError(f"{path.parent}: another run took over, because this one stood still too long; run it again")
