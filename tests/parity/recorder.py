"""Calls inside a system, recorded while it runs eagerly."""

import collections
import contextlib
import functools
from typing import Any, NamedTuple
from unittest import mock


class Call(NamedTuple):
    """arguments: positional ones, `self` included; result: what came out."""

    arguments: tuple
    result: Any


@contextlib.contextmanager
def recorded(*places):
    """{attribute: [Call, ..]} of the functions (owner, attribute) that run inside the context."""
    calls = collections.defaultdict(list)
    with contextlib.ExitStack() as stack:
        for owner, attribute in places:
            stack.enter_context(mock.patch.object(owner, attribute, _spy(owner, attribute, calls)))
        yield calls


def _spy(owner, attribute, calls):
    function = getattr(owner, attribute)

    @functools.wraps(function)
    def spy(*arguments, **named):
        result = function(*arguments, **named)
        calls[attribute].append(Call(arguments, result))
        return result

    return spy
