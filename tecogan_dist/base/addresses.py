"""URLs of others: what may be asked for, and how one is shown and recorded without the secrets that are in it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import SplitResult, unquote_plus, urlsplit

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError

LONGEST = 8192
"""Characters of a URL; signed links have about 2000."""
WEB_SCHEMES = ("http", "https")
HOST_CHARACTERS = 253
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*://"
_URL = re.compile(rf"{_SCHEME}[^\s\"'<>`]+")
_PARAMETER = re.compile(r"(?<=[?&;#])([^=?&;#\s\"'<>]{1,100})=([^?&;#\s\"'<>]*)")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)
# Names of parameters that prove a right rather than say what is meant. A signed link has several of them, and they
# differ each time that it is signed: the time is one of them.
_SECRET = re.compile(
    r"token|secret|passw|passphrase|pwd|signature|credential|api_?key|access_?key|access_?id|private|session|jwt|hmac|"
    r"bearer|authori[sz]|key_pair_id|^(x_)?(amz|goog|oss|obs|cos|ms)_|^q_(sign|ak|key|header|url)|^hdn(ts|ea|tl)$|"
    r"(^|_)(o?auth|authkey|auth_?sig|l?sig|sign|pass|pin|otp|sid|expires?|expiry|policy)(_|$)"
)
_WITH_SIGNATURE = {
    # Azure's shared access signatures, nginx's and Akamai's links: names that mean this beside those only.
    "sig": ("sv", "st", "se", "sr", "sp", "spr", "sip", "ss", "srt", "ske", "sks", "skt", "skv", "skoid", "sktid"),
    "expires": ("md5", "hash", "h", "e", "st"),
    "e": ("md5", "st"),
}


def is_url(text: str) -> bool:
    """Whether this has the form of a URL. A scheme needs ``://``: a file may be named ``a:b.mp4``."""
    return "://" in text


def checked_url(text: str, *, schemes: Iterable[str] = WEB_SCHEMES) -> str:
    """``text``, if it is a URL of one of the ``schemes`` that can be asked for.

    Raises :class:`UserError`, which shows no secret, for another scheme, a host or port that cannot be, characters that
    no URL has, and more than ``LONGEST`` characters.
    """
    shown = shown_url(text)

    def refused(why: str) -> UserError:
        return UserError(f"{shown} is not a URL that can be asked for: {why}.")

    if len(text) > LONGEST:
        raise refused(f"it has more than {LONGEST} characters")
    if not re.match(_SCHEME, text):
        raise refused(f"it does not begin with {_either(schemes)}")
    if re.search(r"[\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff\\]", text):
        raise refused("it has a blank, a backslash or a control character in it, write that as %20 and the like")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise refused("its host or port is not properly written") from error
    if parts.scheme not in schemes:
        raise refused(f"give one that begins with {_either(schemes)}")
    if not parts.hostname:
        raise refused("it names no host")
    if port == 0:
        raise refused("ports are 1 to 65535")
    if not _is_host(parts):
        raise refused(f"{printable(parts.hostname, limit=80)} cannot be the name of a host")
    return text


def shown_url(text: str, *, limit: int = 300) -> str:
    """A text that is meant as one URL, whatever is wrong with it, for a sentence: printable and without secrets."""
    scheme, mark, rest = text[: 4 * LONGEST].partition("://")
    if mark and re.search(r"[\s\"'<>`]", rest):
        # Where such a URL ends is a guess: a password may go on behind the blank.
        rest = rest.rpartition("@")[2] if "@" in rest else rest
        rest = re.split(r"[\s\"'<>`]", rest.partition("?")[0])[0]
    return printable(without_secrets(f"{scheme}{mark}{rest}"), limit=limit)


def without_secrets(text: str) -> str:
    """``text`` with every URL in it reduced to what identifies its source.

    User names and passwords go, and so do parameters that are tokens, keys, signatures or what belongs to a signed
    link, as its time: two links to one thing are the same afterwards. Parameters of an address whose beginning is not
    in the text lose their values. All else stays as it is.
    """
    return _PARAMETER.sub(_without_value, _URL.sub(lambda match: _reduced(match[0]), text))


def is_private(host: str) -> bool:
    """Whether the name of a host means this machine or its own network, as far as the name tells."""
    name = host.strip("[]").partition("%")[0].rstrip(".").lower()
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        # Also the forms of IPv4 that resolvers take: 127.1, 0x7f000001, 2130706433.
        is_number = re.fullmatch(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*", name) is not None
        return is_number or name == "localhost" or name.endswith((".localhost", ".local", ".internal"))
    mapped = getattr(address, "ipv4_mapped", None)
    return not (mapped or address).is_global


def _reduced(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    end = min((rest.find(sign) for sign in "/?#" if sign in rest), default=len(rest))
    authority, after = rest[:end], rest[end:]
    if "@" in authority:
        authority = authority.rpartition("@")[2]
    elif "@" in after and ":" in authority and re.fullmatch(r"[^:]*:\d{0,5}", authority) is None:
        # A password with one of /?# in it, which should have been written as %2F.
        authority, after = after.rpartition("@")[2], ""
    address, hash_mark, fragment = after.partition("#")
    path, question, query = address.partition("?")
    query = _kept(query)
    fragment = _kept(fragment) if "=" in fragment else fragment
    return f"{scheme}{mark}{authority}{path}{question if query else ''}{query}{hash_mark if fragment else ''}{fragment}"


def _kept(query: str) -> str:
    """The parameters that are not secret, as they were written."""
    pieces = re.split(r"([&;])", query)
    names = {_name(piece) for piece in pieces[::2]}
    beside = {name for sign, others in _WITH_SIGNATURE.items() if sign in names for name in (sign, *others)}
    kept = [
        piece
        for piece in pieces[::2]
        if not _is_secret(_name(piece), piece.partition("=")[2]) and not ("=" in piece and _name(piece) in beside)
    ]
    return (pieces[1] if len(pieces) > 1 else "&").join(kept)


def _name(parameter: str) -> str:
    return re.sub(r"[-.\[\]]", "_", unquote_plus(parameter.partition("=")[0])).lower()


def _is_secret(name: str, value: str) -> bool:
    if name == "key":  # of an object, as in key=films/a.mp4, or of a door
        return not re.search(r"[./]|%2f", value, re.IGNORECASE)
    return _SECRET.search(name) is not None


def _without_value(match: re.Match[str]) -> str:
    return f"{match[1]}=..." if _is_secret(_name(match[1]), match[2]) else match[0]


def _is_host(parts: SplitResult) -> bool:
    host = parts.hostname or ""
    authority = parts.netloc.rpartition("@")[2]
    if "[" in authority:
        try:
            is_whole = re.fullmatch(r"\[[^\[\]]*\](:\d*)?", authority) is not None
            return is_whole and ipaddress.ip_address(host.partition("%")[0]).version == 6
        except ValueError:
            return False
    if len(host) > HOST_CHARACTERS:
        return False
    try:
        name = host.encode("idna").decode("ascii") if not host.isascii() else host
    except UnicodeError:
        return False
    labels = name.removesuffix(".").split(".")
    if all(label.isdecimal() for label in labels):
        try:
            ipaddress.IPv4Address(name)
        except ValueError:
            return False
    return all(_LABEL.fullmatch(label) for label in labels)


def _either(schemes: Iterable[str]) -> str:
    *first, last = (f"{scheme}://" for scheme in schemes)
    return f"{', '.join(first)} or {last}" if first else last
