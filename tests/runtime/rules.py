"""Rules that the runtime's tests share, self-contained: they name no library."""

ADAMW = '''
precondition adam(g; betas: unit_pair = (0.9, 0.999), eps: nonnegative = 1e-8):
    """Adam."""
    state exp_avg = zeros(g), exp_avg_sq = zeros(g)
    exp_avg    <- betas[0] * exp_avg + (1 - betas[0]) * g
    exp_avg_sq <- betas[1] * exp_avg_sq + (1 - betas[1]) * g^2
    return (exp_avg / (1 - betas[0]^t)) / (sqrt(exp_avg_sq / (1 - betas[1]^t)) + eps)

regularize decay(d, w; weight_decay: nonnegative = 0.01):
    """Decoupled weight decay."""
    return d + weight_decay * w

rule adamw(
    lr: nonnegative = 1e-3,
    betas: unit_pair = (0.9, 0.999),
    eps: nonnegative = 1e-8,
    weight_decay: nonnegative = 0.01,
):
    precondition adam(betas, eps)
    regularize decay(weight_decay)
    step lr
'''

MOMENTUM = """
rule momentum(lr: nonnegative = 0.1, momentum: unit = 0.9):
    state buffer = zeros(w)
    g = grad(w)
    buffer <- momentum * buffer + g
    w <- w - lr * buffer
"""

CLIPPED = """
rule clipped(lr: nonnegative = 0.1, most: positive = 1.0):
    g = grad(w)
    n = norm(g, over = model)
    metric norm = n
    w <- w - lr * g * min(1, most / (n + 1e-6))
"""

SAM = """
perturb sam(grad, w; rho: nonnegative = 0.05):
    g = grad(w)
    return grad(w + rho * g / (norm(g, over = model) + 1e-12))

rule sam_sgd(lr: nonnegative = 0.1, rho: nonnegative = 0.05):
    perturb sam(rho)
    step lr
"""

AVERAGED = """
rule averaged(lr: nonnegative = 0.1, decay: unit = 0.9):
    state mean = w
    w <- w - lr * grad(w)
    mean <- decay * mean + (1 - decay) * w
    eval mean
"""

VETO = """
rule careful(lr: nonnegative = 0.1, most: positive = 10.0):
    state m = zeros(w), skipped: model = 0
    g = grad(w)
    n = norm(g, over = model)
    m <- 0.9 * m + g
    w <- w - lr * m
    veto when n > most
    always skipped <- skipped + where(n > most, 1, 0)
    metric skipped = skipped
"""

ROUTED = """
rule routed(lr: nonnegative = 0.1, other_lr: nonnegative = 0.01):
    for params where ndim == 2 and not named("*head*"):
        state m = zeros(w)
        g = grad(w)
        m <- 0.9 * m + g
        w <- w - lr * m / (norm(m, over = tensor) + 1e-8)
    for other params:
        w <- w - other_lr * grad(w)
"""

SCHEDULED = """
rule scheduled(lr: nonnegative = 0.1):
    state h = zeros(w)
    g = grad(w)
    every 3:
        h <- 0.5 * h + 0.5 * g * g
    w <- w - lr * g / (sqrt(h) + 1e-3) / sqrt(t)
"""

LAZY = """
rule lazy(lr: nonnegative = 0.05):
    state anchor = zeros(w)
    every 3:
        anchor <- grad(w + 0.1)
    w <- w - lr * (grad(w) + anchor)
"""

NOISY = """
rule noisy(lr: nonnegative = 0.1, sigma: nonnegative = 0.01):
    w <- w - lr * (grad(w) + sigma * normal(w))
"""

NEWTON_SCHULZ = """
rule orthogonal(lr: nonnegative = 0.02):
    for params where ndim == 2:
        x = matrix(grad(w))
        var y = x / (norm(x, over = (rows, cols)) + 1e-7)
        repeat 5:
            a = y @ transpose(y)
            b = -4.775 * a + 2.0315 * a @ a
            y <- 3.4445 * y + b @ y
        w <- w - lr * back(y)
    for other params:
        w <- w - lr * grad(w)
"""

SEARCH = """
rule search(lr: positive = 1.0):
    g = grad(w)
    f = loss(w)
    slope = dot(g, g, over = model)
    var a: model = 1.0
    repeat 20 until loss(w - a * g) < f - 1e-4 * a * slope:
        a <- a / 2
    w <- w - a * g
"""

RETRY = """
rule retry(lr: positive = 2.0):
    f = loss(w)
    g = grad(w)
    if loss(w - lr * g) < f:
        w <- w - lr * g
    else:
        y = grad(w - 0.5 * lr * g)
        w <- w - 0.1 * y
"""

SNES = """
rule population(lr: nonnegative = 0.1, sigma: positive = 0.1):
    z = normal(w, probes(6))
    f = loss(w + sigma * z)
    u = (f - mean(f, over = probes)) / sigma
    w <- w - lr * sum(u * z, over = probes) / 6
"""

REMEMBER = """
rule remember(lr: nonnegative = 0.1):
    state before = w
    g = grad(w)
    moved = w - before
    before <- w
    w <- w - lr * g + 0.5 * moved
"""

COIN = """
rule coin_flips(lr: nonnegative = 0.1, p = 0.3):
    state heads: model = 0
    if coin(p):
        heads <- heads + 1
        w <- w - lr * grad(w)
    repeat 3:
        if coin(p):
            heads <- heads + 1
    metric heads = heads
"""

GUARDED = """
rule guarded_by_an_option(lr: nonnegative = 0.1):
    state n: model = 0
    if lr > 0.05:
        n <- n + 1
    w <- w - lr * n * grad(w)
"""

SLICES = """
rule slices(lr: nonnegative = 0.1, m = 4):
    state C: element[window(4)] = 0, K: model[window, window'] = 0
    i = steps % m
    C[i] <- grad(w)
    r = dot(C, grad(w), over = model)
    K[i, :] <- r
    K[:, i] <- r
    z = solve(K + eye(window), ones(window))
    w <- w - lr * sum(z * C, over = window)
"""

NOISE = """
rule flat_noise(lr: nonnegative = 0.1):
    w <- w - lr * back(normal(flat(w)))
"""

CALLED = """
precondition half(g; a: positive = 0.5):
    return a * g

rule called(lr: nonnegative = 0.1):
    w <- w - lr * half(3 * grad(w))
"""

PROBED = """
rule probed(lr: nonnegative = 0.1):
    f = p -> sum(p^4, over = model)
    z = rademacher(w, probes(3))
    w <- w - lr * mean(z * hvp(f, w, z), over = probes)
"""

PROJECTED = """
rule projected(lr: nonnegative = 0.1, r: count = 3):
    state P: tensor[rows, rank(r)] = 0, m: tensor[rank(r), cols] = 0
    g = matrix(grad(w))
    every 2:
        q, R = qr(normal(P))
        P <- q
    m <- 0.9 * m + transpose(P) @ g
    w <- w - lr * back(P @ m)
"""

PULLED = """
regularize to_start(loss, w; strength: nonnegative = 0.1):
    state start = w
    return loss(w) + strength / 2 * dot(w - start, w - start, over = model)

rule pulled(lr: nonnegative = 0.1):
    regularize to_start()
    w <- w - lr * grad(w + 0.1 * grad(w))
"""

RULES = {
    "adamw": ADAMW,
    "momentum": MOMENTUM,
    "clipped": CLIPPED,
    "sam": SAM,
    "averaged": AVERAGED,
    "veto": VETO,
    "routed": ROUTED,
    "scheduled": SCHEDULED,
    "lazy": LAZY,
    "noisy": NOISY,
    "newton_schulz": NEWTON_SCHULZ,
    "search": SEARCH,
    "retry": RETRY,
    "remember": REMEMBER,
    "population": SNES,
    "coin": COIN,
    "guarded_by_an_option": GUARDED,
    "slices": SLICES,
    "flat_noise": NOISE,
    "called": CALLED,
    "probed": PROBED,
    "projected": PROJECTED,
    "pulled": PULLED,
}
