"""The compiler, from text to Program. `driver` is the one file that knows every stage, in order.

Text to syntax: `parse` and what it is made of (`layout`, `builder`, `expression_builder`,
`mistakes`), or `yaml_form`. `syntax` is the tree; `format`, `yaml_writer` and `latex` write it.

Syntax to graph: `check`. A file for each kind of statement (`statements` has the table of them):
`assignments`, `declarations`, `steps`, `branches`, `loops`, `routing`. `expressions`, `names`,
`calls` and `oracles` for what stands in them, `builtins` for the functions of the language, and
`differentiate` for derivatives. `scope` is what they share; `ir`, `types` and `ops` are the graph.

Graph to graph: `pipeline` runs `passes`, and `verify` between them. `schedule`: how a rule runs.

Graph to Program: `emit`. What a phase computes is in `torch_ops`, `cells`, `matrices` and
`scalars`; `program` and `signature` are what the runtime takes.

What a rule means: `interpret`, and `checks` of primitives by it. What can be read off a graph:
`analysis`, `least`, `privacy`, put into words by `explain`.
"""
