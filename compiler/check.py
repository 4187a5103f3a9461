"""A syntax tree and a registry become a typed graph, or diagnostics."""

from __future__ import annotations

from typing import Any

from . import syntax as s
from .bounds import BOUNDS, complaint
from .expressions import evaluate, node
from .ir import Domain, Graph, OptionInfo, Slot, body_nodes, postorder
from .meanings import Arguments, Function, SlotRef
from .oracles import PARTS, in_order, objective
from .primitive import Declaration, NoLibrary, Registry, from_syntax
from .scope import Context, Scope, Stop, constant
from .source import CompileError, Diagnostic, Span, nearest
from .statements import block
from .types import SIDES, SINGULAR, Axis, Type

TAKEN = frozenset(
    ("params", "param_names", "module_types", "initial_lr", "calls", "steps")
    + ("maximize", "seed", "backend", "workers", "in_backward")
)
"""What the optimizer keeps in its groups, or takes as an argument of its own."""


def check(file: s.File, registry: Registry | None = None, rule: str = "") -> Graph:
    """The graph of a rule of the file (the last one, unless it is named)."""
    rules = {r.name: r for r in file.items if isinstance(r, s.Rule)}
    if not rules:
        raise CompileError(
            [
                Diagnostic(
                    "E218", "the file has no rule", file.span, "a rule is `rule name(options):`"
                )
            ]
        )
    if rule and rule not in rules:
        raise CompileError(
            [Diagnostic("E201", f"unknown rule `{rule}`", file.span, nearest(rule, rules))]
        )
    tree = rules[rule] if rule else list(rules.values())[-1]
    return check_rule(tree, file, registry or NoLibrary())


def check_file(file: s.File, registry: Registry | None = None) -> list[Graph]:
    """Every rule of a file, and each primitive inside a small rule of its own."""
    from .probe import probe

    rules = [item for item in file.items if isinstance(item, s.Rule)]
    primitives = [item for item in file.items if isinstance(item, s.Primitive)]
    probes = [p for p in map(probe, primitives) if p is not None]
    others = [item for item in file.items if isinstance(item, s.Bundle | s.Schedule)]
    if not rules and not primitives and not others:
        check(file, registry)
    graphs: list[Graph] = []
    wrong: list[Diagnostic] = []
    for tree in [*rules, *probes]:
        read = check_rule if tree in rules else check_probe
        try:
            graphs.append(read(tree, file, registry or NoLibrary()))
        except CompileError as error:
            told = {(d.code, d.message, d.span) for d in wrong}
            wrong += [d for d in error.diagnostics if (d.code, d.message, d.span) not in told]
    if wrong:
        raise CompileError(wrong)
    return graphs


def check_probe(tree: s.Rule, file: s.File, registry: Registry) -> Graph:
    """Read the small rule around a primitive: over workers where the primitive mixes them."""
    graph = check_rule(tree, file, registry)
    graph.workers = graph.mixes()
    return graph


def check_rule(tree: s.Rule, file: s.File, registry: Registry) -> Graph:
    """Read one rule; read it twice where it names slots of steps that stand further down."""
    ctx = _read(tree, file, registry, {})
    if ctx.forward:  # what was read in their stead is not known yet: the messages may be wrong
        ctx = _read(tree, file, registry, ctx.graph.slots)
        missing = [p for p in ctx.forward if p not in ctx.graph.slots]
        for path in missing:
            ctx.diagnostics.append(
                Diagnostic(
                    "E202", f"unknown slot `{path}`", tree.span, nearest(path, ctx.graph.slots)
                )
            )
    if ctx.diagnostics:
        order = sorted(ctx.diagnostics, key=lambda d: (d.span.row, d.span.column))
        raise CompileError(order)
    return ctx.graph


def libraries(file: s.File, registry: Registry) -> list[Diagnostic]:
    """`use NAME` names a plugin that is there."""
    wrong = []
    for item in file.items:
        if isinstance(item, s.Use) and item.name not in registry.plugin_names():
            help = nearest(item.name, registry.plugin_names())
            wrong.append(Diagnostic("E201", f"unknown library `{item.name}`", item.span, help))
    return wrong


def _twice(file: s.File) -> list[Diagnostic]:
    """A name is that of one rule, and of one primitive, bundle or extern."""
    wrong: list[Diagnostic] = []
    for kinds in (s.Rule, s.Primitive | s.Bundle | s.Extern):
        first: dict[str, Span] = {}
        for item in file.items:
            if isinstance(item, kinds) and first.setdefault(item.name, item.span) != item.span:
                help = f"the first one is in line {first[item.name].row}"
                wrong.append(Diagnostic("E106", f"`{item.name}` stands twice", item.span, help))
    return wrong


def _returns(tree: s.Rule) -> list[Diagnostic]:
    help = "end the rule with `step lr`, or write `w <- ...`"
    returns = [st.span for st in _all(tree.body) if isinstance(st, s.Return)]
    return [Diagnostic("E214", "a rule returns nothing, it writes", at, help) for at in returns]


def locals_of(file: s.File) -> dict[str, Declaration]:
    """The primitives, bundles and externs that a file defines for itself."""
    result: dict[str, Declaration] = {}
    for item in file.items:
        if isinstance(item, s.Primitive):
            result[item.name] = from_syntax(item, "this file")
        elif isinstance(item, s.Bundle):
            result[item.name] = Declaration("function", item.name, tree=item, doc=item.doc)
    return result


def _read(tree: s.Rule, file: s.File, registry: Registry, known: Any) -> Context:
    graph = Graph(tree.name, tree.doc or file.doc, workers=tree.workers)
    ctx = Context(graph, registry, locals_of(file), known_slots=dict(known))
    ctx.source = tree.span.source
    ctx.diagnostics += [*libraries(file, registry), *_twice(file), *_returns(tree)]
    scope = Scope()
    scope.block = scope
    ctx.aliases = {st.alias for st in _all(tree.body) if isinstance(st, s.Step) and st.alias}
    _targets(ctx, scope, tree)
    externs(ctx, scope, file)
    for name, type in PARTS.items():
        scope.names[name] = objective(ctx, name, type, declare=False)
    scope.names["loss"] = objective(ctx, "loss", Type("model"), declare=False)
    try:
        for option in tree.options:
            scope.names[option.name] = _option(ctx, option)
    except Stop:
        return ctx
    body = [st for st in tree.body if not (isinstance(st, s.Declare) and st.kind == "target")]
    try:
        block(ctx, scope, body)
    except Stop:
        return ctx
    _finish(ctx, tree.span)
    return ctx


def _all(body: tuple[s.Statement, ...]) -> list[s.Statement]:
    result: list[s.Statement] = []
    for statement in body:
        result.append(statement)
        for part in ("body", "orelse"):
            result.extend(_all(getattr(statement, part, ())))
    return result


def _targets(ctx: Context, scope: Scope, tree: s.Rule) -> None:
    """Declared targets, or `w` for all parameters."""
    declared = [
        slot
        for st in tree.body
        if isinstance(st, s.Declare) and st.kind == "target"
        for slot in st.slots
    ]
    names: list[str] = []
    for slot in declared or [s.Slot("w")]:
        domain = slot.name
        type = Type("element", (), domain)
        ctx.declare(slot.name, "target", type, None, slot.span)
        where = _target_condition(ctx, slot)
        ctx.graph.domains[domain] = Domain(domain, "", where, tuple(names))
        ctx.domain_key[domain] = slot.name
        ctx.targets.append(slot.name)
        scope.names[slot.name] = SlotRef(slot.name)
        names.append(domain)
    scope.target = ctx.targets[0]
    scope.names["w"] = SlotRef(scope.target)


def _target_condition(ctx: Context, slot: s.Slot) -> Any:
    if slot.value is None or (isinstance(slot.value, s.Name) and slot.value.id == "other"):
        return None
    try:
        return node(ctx, Scope(target=slot.name), slot.value, "a condition on parameters")
    except Stop:
        return None


def _option(ctx: Context, option: s.Option) -> Any:
    """An option of the rule: read from the parameter group at every step."""
    if option.name in TAKEN:
        wrong = f"every optimizer has a `{option.name}` of its own"
        ctx.error("E220", wrong, option.span, "give the option another name")
    if option.bound and option.bound not in BOUNDS:
        ctx.unknown("bound", option.bound, BOUNDS, option.span, "E208")
    if option.default is None:
        ctx.graph.options[option.name] = OptionInfo(option.name, option.bound, None, option.span)
        return ctx.graph.add(
            "option", type=Type("group"), known=1, span=option.span, name=option.name
        )
    value = evaluate(ctx, Scope(), option.default)
    values = value if isinstance(value, tuple) else (value,)
    numbers = [constant(v) for v in values]
    if any(n is None for n in numbers):
        return value  # a function or a bundle: fixed while compiling
    default = tuple(numbers) if isinstance(value, tuple) else numbers[0]
    wrong = complaint(option.bound, default)
    if wrong:
        ctx.error("E208", f"`{option.name}` {wrong}", option.span)
    ctx.graph.options[option.name] = OptionInfo(option.name, option.bound, default, option.span)
    nodes = [
        ctx.graph.add(
            "option",
            type=Type("group", logical=isinstance(n, bool)),
            known=1,
            span=option.span,
            name=option.name,
            place=i if isinstance(value, tuple) else -1,
        )
        for i, n in enumerate(numbers)
    ]
    return tuple(nodes) if isinstance(value, tuple) else nodes[0]


def externs(ctx: Context, scope: Scope, file: s.File) -> None:
    """`extern f(a, b) -> type`: an opaque pure function that the host supplies by name."""
    for item in file.items:
        if not isinstance(item, s.Extern):
            continue
        axes = tuple(Axis(a.name, None, a.primes) for a in item.type.axes)
        type = Type(item.type.reach, axes, ctx.targets[0] if item.type.reach != "model" else "")
        ctx.graph.externs[item.name] = type

        def apply(given: Arguments, span: Any, item: s.Extern = item, type: Type = type) -> Any:
            inputs, options = ([x.name for x in part] for part in (item.inputs, item.options))
            values = in_order(ctx, item.name, inputs, options, given, span)
            return ctx.graph.add("extern", *values, type=type, span=span, name=item.name)

        ctx.externs[item.name] = Function(f"`{item.name}`", apply)


MADE = ("size", "eye", "iota", "expand", "random")
"""What is made from nothing, with axes."""
BRINGING = ("value", "gradient", "hvp", "jvp", "vjp", "oracle", "extern", "svd", "rename")
"""What comes with axes whose places are counted when it is there."""


def _finish(ctx: Context, span: Span) -> None:
    """The last version of each slot is what the step writes."""
    graph = ctx.graph
    for key, slot in ctx.slot_of.items():
        value = ctx.flow.get(key)
        if value is not None and not (value.op == "read" and value["slot"] == slot):
            graph.writes[slot] = value
    graph.always = frozenset(ctx.always)
    _eval_slots(ctx)
    _of_a_turn(ctx)
    _lone_loops(ctx)
    _unsized(ctx)
    seen = graph.writes.keys() & ctx.targets or graph.metrics or graph.evals or graph.outcomes
    if not seen and not ctx.diagnostics:
        wrong = f"`{graph.name}` changes nothing"
        if graph.writes:
            wrong += ": nothing reads what it keeps, and it writes no target"
        help = "end the rule with `step lr`, or write `w <- ...`"
        ctx.diagnostics.append(Diagnostic("E219", wrong, span, help))


def _of_a_turn(ctx: Context) -> None:
    """What a step reports, or decides over it, is no value of one turn of a loop."""
    graph = ctx.graph
    ends = [(f"`{e.kind}`", n) for e in graph.outcomes for n in (e.when, e.count) if n is not None]
    ends += [("a metric", n) for n in graph.metrics.values()]
    ends += [("`eval`", n) for n in graph.evals.values()]
    for what, end in ends:
        if any(n.op == "parameter" for n in postorder([end])):
            wrong = f"{what} is of the whole step, and this is of one turn of a loop"
            help = "write it to a `var` in the loop, and read that behind the loop"
            found = Diagnostic("E318", wrong, end.span, help)
            ctx.diagnostics += [found] if found not in ctx.diagnostics else []


def _lone_loops(ctx: Context) -> None:
    """Workers that turn a loop differently often would wait for one another."""
    for loop in list(ctx.graph.nodes.values()):
        if loop.op == "loop" and loop["body"].until is not None:
            mixed = next((n for n in body_nodes(loop["body"]) if n.kind == "comm"), None)
            if mixed is not None:
                ctx.diagnostics.append(
                    Diagnostic(
                        "E317",
                        "workers cannot mix in a loop that each of them leaves by itself",
                        mixed.span,
                        "give the loop a count, without `until`",
                    )
                )


def _unsized(ctx: Context) -> None:
    """What is made from nothing needs to know how many places its axes have."""
    graph = ctx.graph
    inits = [s.init for s in graph.slots.values() if s.init is not None]
    order = list(postorder([*graph.roots(), *inits]))
    order += [n for loop in order if loop.op == "loop" for n in body_nodes(loop["body"])]
    made = [n for n in order if n.op in MADE]
    brought = {a.name for n in order for a in n.type.axes if a.size is not None}
    brought |= {a.name for n in order if n.op in BRINGING for a in n.type.axes}
    brought |= {a.name for t in graph.inputs.values() for a in t.axes} | {"all", *SIDES}
    asked = {n["objective"] for n in order if n.op == "evaluate"}
    brought |= {a.name for name in asked for a in graph.objectives[name].axes}
    for n in made:
        for axis in (n["axis"],) if n.op == "size" else n.type.axes:
            own = n.op == "size" and axis.name == SINGULAR
            if own or axis.size is None and axis.name not in brought:
                wrong = f"nothing says how many places the axis `{axis.name}` has"
                help = f"say it where the axis begins: `normal(w, {axis.name}(4))`, `window(4)`"
                help = "each matrix has its own: `sum(0 * s + 1, over = singular)`" if own else help
                ctx.diagnostics.append(Diagnostic("E308", wrong, n.span, help))
                return


def _eval_slots(ctx: Context) -> None:
    """What evaluation holds must be in some slot between steps; if in no other, then in its own."""
    graph = ctx.graph
    for target, held in graph.evals.items():
        kept = [s for s, n in graph.writes.items() if n is held and graph.slots[s].kind == "state"]
        if not kept:
            whole = target
            while whole in ctx.routed:
                whole = ctx.routed[whole]
            path = ctx.fresh_path("eval" if len(ctx.targets) == 1 else f"eval.{whole}")
            init = held
            if held.op != "read":
                init = ctx.restrict(ctx.flow_of(whole), held.type.domain)
            graph.slots[path] = Slot(path, "state", held.type, init, held.span)
            graph.writes[path] = held
