"""Passes: graph in, graph out, of the same meaning. `pipeline` has their order."""
