"""Where a page is from: its address without what does not name it, its host, and the site that the host belongs to."""

import functools
import ipaddress
import re
from dataclasses import dataclass

import tldextract

_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_URL = re.compile(
    r"(https?)://(?:[^/?#@]*@)*(\[[^\]/?#@]+\]|[^/?#:@\[\]]+)(?::(\d{1,5})?)?([/?][^#]*)?(?:#.*)?", re.IGNORECASE
)
_MAX_PORT = 65535


@dataclass(frozen=True)
class Address:
    """`site` is the registrable domain of the host (`bbc.co.uk`, `ann.github.io`), or the host where there is none."""

    url: str
    host: str
    site: str


def address_of(url: str, max_bytes: int) -> Address | None:
    """The address of a page, or None where a URL is not http(s), has no host, or is too long or not printable.

    User names, passwords and fragments are left out, the host is in lower case and in ASCII (IDNA).
    """
    url = url.strip().removeprefix("<").removesuffix(">")
    parts = _URL.fullmatch(url)
    if not parts or not url.isprintable() or len(url.encode("utf-8", "replace")) > max_bytes:
        return None
    scheme, name, port, rest = parts.groups()
    host = _ascii(name.strip("[]").lower().rstrip("."))
    if not host or (port and int(port) > _MAX_PORT):
        return None
    shown = f"[{host}]" if ":" in host else host
    return Address(f"{scheme.lower()}://{shown}{f':{port}' if port else ''}{rest or ''}", host, site_of(host))


@functools.lru_cache(maxsize=1 << 16)
def _ascii(host: str) -> str:
    """The host as names are looked up, or "" where it cannot be one."""
    try:
        host = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        return ""
    return host if _NAME.fullmatch(host) or _is_ip(host) else ""


def _is_ip(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


@functools.lru_cache(maxsize=1 << 16)
def site_of(host: str) -> str:
    """The registrable domain of a host by the public suffix list that tldextract ships; an IP address is its own."""
    return host if _is_ip(host) else public_suffixes()(host).top_domain_under_public_suffix or host


@functools.cache
def public_suffixes() -> tldextract.TLDExtract:
    """The list that tldextract ships, never from the network; with hosts of many sites, such as github.io."""
    return tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None, include_psl_private_domains=True)
