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
        self.token = secrets.token_hex(8)
        self.tag: str | None = None
        self.expires = 0.0
        self.lost = False

    def take(self) -> None:
        """Raises `DataError` where another holds it."""
        if self._put(IfNoneMatch="*"):
            return
        tag, stored = self._stored()
        if tag is None:
            return self.take()
        left = stored.get("expires", 0) - time.time()
        if left > 0 or not self._put(IfMatch=tag):
            holder = stored.get("holder", "another process")
            raise DataError(
                f"{self.path.parent} is in use by {holder}: wait for it to end, or stop it; if it is dead already, its "
                f"hold ends in {max(1, round(left))} s"
            )

    def renew_until(self, ended: threading.Event) -> None:
        while not ended.wait(self.lease_s / 4):
            with contextlib.suppress(Exception):  # of the network, whichever the client raises; tried again
                if not self._put(IfMatch=self.tag):
                    self.lost = True
                    return

    def release(self) -> None:
        """Ends the lease; it is lost where another holds it, or has run out and nobody can say who holds it."""
        try:
            if self._put(IfMatch=self.tag):
                self.path.unlink(missing_ok=True)
            else:
                self.lost = True
        except Exception:
            self.lost = time.time() >= self.expires

    def _put(self, **condition: str) -> bool:
        """Writes the lease under a condition; False where another holds it, or nobody does any more.

        One that was not renewed in time is still held where the condition holds: nobody has written since.
        """
        expires = time.time() + self.lease_s
        body = {"holder": self.holder, "expires": expires, "token": self.token}
        try:
            answer = self.path.fs.call_s3(
                "put_object", Bucket=self.bucket, Key=self.key, Body=json.dumps(body).encode(), **condition
            )
        except (FileExistsError, FileNotFoundError):
            return self._is_ours()
        except OSError as error:
            if _PRECONDITIONS in str(error):
                return self._is_ours()
            raise
        self.tag, self.expires = answer["ETag"], expires
        return True

    def _is_ours(self) -> bool:
        """Whether what is stored is of this run: a put may have come through although its answer did not."""
        tag, stored = self._stored()
        if stored.get("token") != self.token:
            return False
        self.tag, self.expires = tag, stored["expires"]
        return True

    def _stored(self) -> tuple[str | None, dict[str, Any]]:
        """ETag and content of the lease that is stored; None where there is none."""
        try:
            tag = self.path.fs.info(self.path.path)["ETag"]
            stored = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return None, {}
        except ValueError:
            return tag, {}
        return tag, stored if isinstance(stored, dict) else {}


@contextlib.contextmanager
def hold_lease(path: Any, lease_s: float = LEASE_S) -> Iterator[None]:
    """Holds the object `path` for this process. Raises `DataError` where another does, or may have meanwhile."""
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
        raise DataError(
            f"{path.parent}: another run took over, or may have: this one did not renew its hold in time; run it again"
        )
