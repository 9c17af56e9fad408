"""URLs: which can be asked for, and that no secret of theirs is shown."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tecogan_dist.base.addresses import checked_url, is_private, shown_url, without_secrets
from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tests.support.properties import EXAMPLES

FINE = [
    "https://vimeo.com/121649159",
    "http://127.0.0.1:8080/film.mp4?name=../../evil%2fx.sh",
    "http://[::1]:80/a",
    "https://user:pass@host.example.org/a.mp4",
    "https://bücher.example/ü.mp4",
    "http://my_host/a",
    "https://example.org./a",
]

HOSTS = [
    *(
        "",
        "/path",
        ":80/",
        "[::1",
        "[::1]x/",
        "[12]/",
        "a b/c",
        "a:99999/",
        "a:0/",
        "a:port/",
        "a:-1/",
        "-a-/",
        "a..b/",
    ),
    *("999.1.1.1/", "\u202ea/", "a\x00b/", "a/\n", "a\\b/", "a" * 300, "ü" * 300, "xn--\udcff/", "a/" + "b" * 10_000),
    *("%00/", "\u2100.example/", "@", "a%20b/"),
]
REFUSED = [*(f"http://{rest}" for rest in HOSTS), "ftp://a/b", "file:///etc/passwd", "javascript:alert(1)", "a", "://a"]


@pytest.mark.parametrize("url", FINE)
def test_what_can_be_asked_for_stays_as_it_is(url: str) -> None:
    assert checked_url(url) == url


@pytest.mark.parametrize("url", REFUSED)
def test_what_cannot_be_asked_for_is_one_sentence(url: str) -> None:
    with pytest.raises(UserError) as caught:
        checked_url(url)
    text = str(caught.value)
    assert len(text) < 600
    assert text.isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://u:hidden@h/a.mp4", "https://h/a.mp4"),
        ("ftp://hidden@h/a", "ftp://h/a"),
        ("ftp://u:hid/den@h/a", "ftp://h/a"),
        ("http://u:hid#den?@h:80/a", "http://h:80/a"),
        ("http://u:p@hidden@h/a", "http://h/a"),
        ("https://h/a.mp4?token=hidden", "https://h/a.mp4"),
        ("https://h/watch?v=abc&access_token=hidden&t=3", "https://h/watch?v=abc&t=3"),
        ("https://h/a?v=1;Auth=hidden", "https://h/a?v=1"),
        ("https://h/a?%74oken=hidden&author=me", "https://h/a?author=me"),
        ("https://h/a#access_token=hidden&x=1", "https://h/a#x=1"),
        ("https://h/a.zip?sig=hidden#set/walk", "https://h/a.zip#set/walk"),
        ("https://h/a?key=hidden", "https://h/a"),
        ("https://h/a?key=films/a.mp4", "https://h/a?key=films/a.mp4"),
        (
            "https://b.s3.amazonaws.com/a.mp4?X-Amz-Algorithm=AWS4&X-Amz-Credential=hidden&X-Amz-Date=2&X-Amz-Expires=3"
            "&X-Amz-SignedHeaders=host&X-Amz-Signature=hidden&versionId=7",
            "https://b.s3.amazonaws.com/a.mp4?versionId=7",
        ),
        ("https://b/a?AWSAccessKeyId=hidden&Expires=1&Signature=hidden", "https://b/a"),
        ("https://b/a?GoogleAccessId=hidden&Expires=1&Signature=hidden", "https://b/a"),
        (
            "https://x.blob.core.windows.net/c/a?sv=1&st=2&se=3&sr=b&sp=r&sig=hidden",
            "https://x.blob.core.windows.net/c/a",
        ),
        ("https://h/a?md5=hidden&expires=12&id=4", "https://h/a?id=4"),
        ("s3://bucket/a?endpoint_override=h:1&region=x", "s3://bucket/a?endpoint_override=h:1&region=x"),
        ("error for url: /a.mp4?token=hidden (Caused by x)", "error for url: /a.mp4?token=... (Caused by x)"),
        ("'https://u:hidden@h/a' and http://h/?q=2&pwd=hidden.", "'https://h/a' and http://h/?q=2"),
        ("films/a@b.mp4", "films/a@b.mp4"),
    ],
)
def test_what_identifies_a_source_stays_and_secrets_go(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    assert without_secrets(shown) == shown


@pytest.mark.parametrize(
    "url",
    [
        "ftp://u:hidden hidden@h/a",
        "http://u:hid\x1bhidden@h/ a",
        "http://[u:hidden@h",
        'https://h/a b?q="&token=hidden',
    ],
)
def test_what_is_not_a_proper_url_is_shown_without_secrets_too(url: str) -> None:
    assert "hidden" not in shown_url(url)
    with pytest.raises(UserError) as caught:
        checked_url(url)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "private"),
    [
        *((name, True) for name in ("localhost", "127.0.0.1", "::1", "[::1]", "169.254.169.254", "10.1.2.3", "127.1")),
        *((name, True) for name in ("0x7f000001", "2130706433", "::ffff:127.0.0.1", "a.localhost", "LOCALHOST.")),
        *((name, False) for name in ("vimeo.com", "8.8.8.8", "2606:4700::1111", "local.example.org", "1.example")),
    ],
)
def test_hosts_of_one_s_own_network_are_known(host: str, private: bool) -> None:
    assert is_private(host) == private


@EXAMPLES
@given(st.text(max_size=60), st.sampled_from(["", "http://", "https://u:p@", "http://[", "https://h/?"]))
def test_any_text_is_a_url_or_one_sentence(text: str, start: str) -> None:
    url = start + text
    with contextlib.suppress(UserError):
        assert checked_url(url) == url
    assert isinstance(without_secrets(url), str)
    assert printable(shown_url(url)) == shown_url(url)
