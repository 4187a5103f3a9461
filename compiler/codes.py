"""What each code of a diagnostic means, with an example: `optc explain E203`."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "E101": (
        "A word stands where none of its kind may: a misspelt keyword, a missing `:` or bracket.",
        "rul adamw(lr = 1e-3):",
    ),
    "E102": (
        "The indentation does not fit: blocks are indented evenly, with spaces.",
        "rule r(lr = 0.1):\n  g = grad(w)\n    step lr",
    ),
    "E103": ("A text or a documentation string is not closed.", 'for params where named("*bias):'),
    "E104": (
        "The file is too long (256 KB) or nested too deeply (60 levels).",
        "w <- ((((((((...))))))))",
    ),
    "E105": ("A number is not written as one.", "lr = 1e"),
    "E106": ("A name stands twice in one list, or in one file.", "rule r(lr = 0.1, lr = 0.2):"),
    "E110": ("The file is not YAML.", "rule: [a, b"),
    "E111": (
        "A YAML file may not use aliases and anchors: they can grow without bound.",
        "steps: *other",
    ),
    "E112": ("A YAML file may not use tags: they can name code.", "lr: !!python/object x"),
    "E113": ("A YAML value has the wrong shape, or a key is unknown.", "rule: adam\nstep: 3"),
    "E114": ("A key is given twice in a YAML mapping.", "lr: 1\nlr: 2"),
    "E201": (
        "The name is unknown here: a primitive, function, slot, rule or target that is not there.",
        "precondition adm(betas)",
    ),
    "E202": ("A member is asked of something that does not have it: `name.member`.", "sgd.mm"),
    "E203": (
        "A primitive or function has no option or input of this name, or is none.",
        "clip global_norm(maximum = 1)",
    ),
    "E204": ("An argument is given twice.", "adam(eps = 1, eps = 2)"),
    "E205": ("The number of arguments or values does not fit.", "a, b <- c"),
    "E206": (
        "The rule declares several losses and uses `loss`, `grad` or `d` without choosing one.",
        "loss main, other\nstep lr",
    ),
    "E207": ("An input, option or argument that is needed is missing.", "norm(g)"),
    "E208": ("An option is outside its bound, or the bound is unknown.", "lr: positive = -1"),
    "E209": ("Functions call each other without end.", "function f(x): return f(x)"),
    "E210": (
        "A step that keeps state would be evaluated at several points of one step.",
        "smooth momentum() above perturb sam()",
    ),
    "E211": (
        "A step that chooses where the gradient is taken stands below one that used it.",
        "clip global_norm()\nperturb sam()",
    ),
    "E212": ("`<-` writes slots; the name is no slot.", "x = 1\nx <- 2"),
    "E213": ("`=` names a value once.", "x = 1\nx = 2"),
    "E214": (
        "A primitive returns nothing, or not once at its end; or a rule returns something.",
        "clip none(g): n = norm(g, over = model)",
    ),
    "E215": (
        "A state inside a loop begins with what is known before the loop.",
        "repeat 3: state m = zeros(w)",
    ),
    "E216": (
        "A target is declared after it could be used.",
        'target a = named("a*") inside a block',
    ),
    "E217": ("The primitive is of another kind than the step says.", "clip adam()"),
    "E218": ("The file has no rule.", "clip own(g): return g"),
    "E219": ("The rule changes nothing.", "rule r(lr = 0.1): g = grad(w)"),
    "E220": (
        "Every optimizer has something of its own under the name of the option.",
        "rule r(lr = 0.1, steps = 5):",
    ),
    "E221": (
        "A line of a check does not hold.",
        "clip own(d): return d\n    check same: d = [1.0] gives [2.0]",
    ),
    "E301": (
        "The operands are values over different tensors, or axes of different sizes.",
        "critic + gen",
    ),
    "E302": ("A value is expected, and this is something else; or a type is unknown.", "loss + 1"),
    "E303": ("An index does not fit the axes of the value.", "betas[2]"),
    "E304": ("A value is finer than the slot that it is written to.", "state s: model = 0\ns <- g"),
    "E305": ("An input needs axes that the value does not have.", "combine upgrad() with one loss"),
    "E306": ("A derivative is asked of something that has none of this form.", "grad(p -> p, w)"),
    "E307": ("An operation has no derivative here.", "grad(p -> sum(qr(matrix(p))), w)"),
    "E308": (
        "A reach or an axis is named that the value, or the whole rule, does not have.",
        "sum(g, over = losses)",
    ),
    "E309": ("A size or a count is out of bounds: nothing may grow without limit.", "repeat 10^9:"),
    "E310": ("Patterns are texts.", "named(bias)"),
    "E311": ("A matrix is expected.", "g @ g"),
    "E312": ("Workers are mixed in a rule that is not `over workers`.", "w <- mix(w, W)"),
    "E313": (
        "An outcome decides over the whole step; its condition must be one truth value.",
        "veto when g > 1",
    ),
    "E314": (
        "The host must know how often a loop turns at most, and how many places an axis has.",
        "repeat norm(g, over = model):",
    ),
    "E315": (
        "Parameters are routed by what the host knows of them.",
        "for params where norm(w, over = tensor) > 1:",
    ),
    "E316": (
        "Mixing weights are a network, or a square matrix whose rows and columns sum to 1.",
        "mix(w, ((0.5, 0.5), (0.9, 0.1)))",
    ),
    "E317": (
        "Workers cannot mix inside a loop that each of them leaves when it is done.",
        "repeat 3 until norm(w, over = model) < 1: w <- mix(w, W)",
    ),
    "E318": (
        "What a step reports, or decides over the whole step, is of no single turn of a loop.",
        "repeat 100: metric size = norm(w, over = model)",
    ),
    "E401": ("The rule expands to too many statements.", "repeat 32: repeat 32: repeat 32:"),
    "E402": (
        "The schedule runs the rule in a way that its dependencies do not allow.",
        "run in_backward, of a rule with clip global_norm()",
    ),
    "E403": ("A slot cannot be stored in this format.", "store w as int8"),
    "E501": (
        "Two plugins contribute a primitive of one kind and name.",
        "both packages have precondition lion",
    ),
    "E502": (
        "A plugin cannot be imported; the others are used without it.",
        '[project.entry-points.optc]\nlion = "no_such_module"',
    ),
    "E503": (
        "A file of a library does not hold the primitive that its path names.",
        "clip/own.opt without `clip own`",
    ),
    "E504": (
        "A primitive written in Python uses a function that has no node.",
        "torch.linalg.qr(g)",
    ),
    "E601": (
        "A rule that is to be differentially private lets out something of single examples.",
        "w <- w - lr * mean(grad(w, on = each(batch)), over = examples)",
    ),
}
"""Code -> (what it means, an example that has it)."""


def explain(code: str) -> str:
    """The text of a code."""
    meaning, example = CODES[code]
    lines = "\n".join("    " + line for line in example.splitlines())
    return f"{code}: {meaning}\n\nFor example:\n\n{lines}\n"
