"""The modules that a closure reaches."""

from __future__ import annotations

import functools

from optc.runtime.inspection import modules_of

from .closures import ordinary
from .network import network


def test_modules_are_found_where_closures_have_them():
    model = network(0.5, norm=True)

    class Trainer:
        def __init__(self):
            self.model = model

        def made(self):
            return lambda: self.model

    def outer():
        return ordinary(model)()

    def wrapped():
        return outer()

    def of(net):
        return None

    partials = (
        functools.partial(outer),
        functools.partial(of, model),
        functools.partial(of, net=model),
    )
    for closure in (outer, wrapped, Trainer().made(), *partials, model.forward):
        assert modules_of(closure)[0] is model
    assert modules_of(len) == []
