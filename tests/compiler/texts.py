"""The texts that the laws of the front end are tested on: every file there is, and snippets."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("tests/cases/hard", "examples", "plugins")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.opt"))


def in_rule(*lines: str) -> str:
    return "rule r(a = 1):\n" + "".join(f"    {line}\n" for line in lines)


EXPRESSIONS = [
    "-x^2",
    "x^-1",
    "x^-y^z * 2",
    "(x^y)^z",
    "x^y^z",
    "(-x)^2",
    "a - (b - c)",
    "a - b - c",
    "a / (b * c) @ d // e % f",
    "--a + -b * -c",
    "not a == b and c or not (d or e)",
    "(not a) == b",
    "(a < b) == c",
    "p -> p + 1",
    "(p, q) -> p * q",
    "f((p -> p), q -> r -> q)",
    "(p -> p)(2)",
    "grad[w](train, w = w1, on = b)",
    "f[i, j](x)[k]",
    "K[i, :]",
    "K[:, 0]",
    "dot(J, J', over = model)",
    "sum(x, over = (residuals, micro'))",
    "(a,)",
    "(a, b)",
    "[1, -2.5, .5]",
    "[]",
    "f()",
    "pcg(A, b, 1 // D; at_most = 8, rtol = 0.05)",
    "f(; a = 1)",
    "sgd.m + a.b.c(d).e",
    "(1).x + 2(3)",
    "200 epochs + 1 epoch + 5 steps - 1 step",
    'named("critic.*", "a\\"b\\\\c")',
    "inf + 1e-8 + 1.5E+3 + 007",
    "loss(w + d) + step + steps % m + input + project + eval + t + average + smooth + when + over",
    "v -> hvp(loss, w, v) + damping * v",
    "where(c, a, b)",
    "a < -b",
]

SNIPPETS = [
    "",
    '"""Only a doc string."""\n',
    "# only a comment\n",
    "use manifolds\n",
    "schedule r:\n    store sgd.m as bf16(stochastic)  # half\n    # none\n    run in_backward\n",
    'schedule r:\n    """How."""\n    store m as int8(block = 64, power = 4)\n    run backend(c)\n',
    "extern cone_qp(A, b; tol: positive = 1e-3) -> model[losses]\n",
    "extern f() -> element\n",
    "bundle b:\n    f = x -> x\n    g, h = k(f)\n",
    'bundle b:\n    """Doc."""\n    f = x -> x\n',
    'rule r():\n    """Only doc."""\n',
    "rule r() over workers:\n    w <- mix(w, W)\n",
    "rule r(a, b: positive, c: unit_pair = (0.9, 0.999),):\n    step a\n",
    "clip c(d, w: element[rank(r), rank'], max: positive; p: positive = 1):\n    return d\n",
    "clip c(d, m: positive):\n    return d\n",
    "clip c(d, m: positive;):\n    return d\n",
    "function f(; a):\n    return a\n",
    "function f(x):\n    return x\n",
    "combine c(J: element[losses]; e = 1) -> element:\n    return J\n",
    'project p(w) -> element:\n    """D."""\n    paper 3, "x"\n    return w\n    check a:\n'
    "        w = [1, 2], rho = 0.1 gives [1], m = [2, 3] within 1e-6\n"
    "        loss = p -> p^2 gives m = 3\n        gives 3\n        gives [1], m = [2] within 1e-9\n"
    "    check b:\n        w = 1 gives 1\n",
    in_rule('target critic = named("critic.*"), gen = other', "target x"),
    in_rule("state x = w, x_ag = w, a: model = next(1)", "state l2: model = 3e-4"),
    in_rule("state C: element[window(m)] = 0, K: model[window, window'] = 0"),
    in_rule("var a = lr, b", "input epoch_progress: model", "loss train, val"),
    in_rule("loss residual: model[residuals]", "losses main, auxiliary"),
    in_rule("oracle score(x, condition): element, other_one(): model"),
    in_rule("a, b <- e1, e2", "C[i] <- c", "K[i, :] <- r", "always l2 <- 1"),
    in_rule("loss = p -> train(w = p)", "batch = draw()", "step = 3", "a, b = f(x)"),
    in_rule("precondition adam((0.9, 0.95)) as a when t > 3", "step lr when c", "clip c(max = 1)"),
    in_rule("veto when c", "restore 4 when c", "snapshot when new_epoch"),
    in_rule("metric ratio = e", "eval x_ag", "return (a, b)"),
    in_rule('for params where ndim == 2 and not named("*e*"):', "    step a", "for other params:",
            "    step b"),
    in_rule("for critic:", "    for w:", "        step a", "    other:", "        step b"),
    in_rule("repeat n:", "    x <- x", "repeat n as i until c:", "    x <- i"),
    in_rule("repeat 8 until loss(w) < 1:", "    x <- x", "repeat 2 as i:", "    x <- i"),
    in_rule("every k:", "    x <- 1", "else:", "    x <- 2", "every 5 steps:", "    x <- 3"),
    in_rule("if a:", "    if b:", "        x <- 1", "    else:", "        x <- 2", "else:",
            "    x <- 3"),
    in_rule('paper 38, "arXiv:2302.06675"', "paper 3", 'paper "an address"'),
    "# above\n\nrule r(  # inside\n    a = 1,  # a\n):  # behind\n    # one\n    # two\n"
    "    step a # c\n    # below\n# next\nuse m  # m\n# end\n",
    in_rule("if a:  # if", "    x <- 1", "    # last", "# to else", "else:  # else", "    x <- 2",
            "# after the if"),
    'rule r():\n    """Two\n      lines, "quoted"\n    """\n    step 1\n',
    'rule r():\n    """\n      deeper\n    than this"""\n    step 1\n',
    in_rule("x = f(a,", "    b,  # why", "    c)", "state a = 1,", "        b = 2"),
    in_rule("y = (" + " + ".join(["a_long_name * another_name"] * 6) + ")"),
    in_rule("y = f(" + ", ".join(["a_long_name * another_name"] * 6) + "; eps = 1e-8)"),
    in_rule("state " + ", ".join(f"a_long_name_{i} = zeros(w)" for i in range(6))),
    in_rule("a, b <- " + ", ".join(["f(a_long_name * another_name, third_name)"] * 2) + " # c"),
    "rule r(" + ", ".join(f"an_option_{i}: positive = 1e-3" for i in range(6)) + "):\n    step 1\n",
    "clip c(" + ", ".join(f"an_input_{i}: element" for i in range(8)) + "; a = 1):\n    return 1\n",
    *(in_rule(f"x = {e}") for e in EXPRESSIONS),
]  # fmt: skip

TEXTS = {
    **{str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in FILES},
    **{f"snippet {at}": text for at, text in enumerate(SNIPPETS)},
}


def comments_of(text: str) -> list[str]:
    """Every comment in a text without strings that hold a `#`."""
    lines = (line.partition("#")[2].strip() for line in text.splitlines() if "#" in line)
    return sorted(line for line in lines if line)
