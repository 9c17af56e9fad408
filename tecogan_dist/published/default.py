"""The weights of an upscaling for which none were named."""

from __future__ import annotations

from tecogan_dist.base.errors import UserError
from tecogan_dist.published.catalogue import find
from tecogan_dist.published.fetching import NotFetched, Say, say_to_stderr
from tecogan_dist.published.names import located, packaged, resolve

DEFAULT, WITHOUT_NETWORK = "tecogan", "small"


def choose(given: str | None, say: Say = say_to_stderr) -> str:
    """Where the weights are: ``given``, a name or a place; or, where none was given, those that can be had.

    Those are the original's TecoGAN, from the cache or its address; where it cannot be fetched, the small model of
    this package, which ``say`` tells in one line. A name that was given and cannot be had raises :class:`UserError`.
    """
    if given is not None:
        return str(resolve(given, "weights", say=say))
    try:
        return str(located(find(DEFAULT), say=say))
    except UserError as error:
        try:
            small = packaged(find(WITHOUT_NETWORK))
        except UserError:
            raise error from None
        why = error.short if isinstance(error, NotFetched) else str(error).rstrip(".")
        say(f"no weights were named and {why}: the small model of this package ({WITHOUT_NETWORK}) is used instead")
        return str(small)
