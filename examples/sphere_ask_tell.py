"""Ask and tell by hand: the loop stays yours, here on a sphere in ten dimensions."""

import numpy as np

import blackbox as bb


def sphere(x):
    return float(np.sum((x - 1.0) ** 2))


optimizer = bb.Optimizer(bb.Box([-5.0] * 10, [5.0] * 10), method="cma-es", seed=0, budget=2000)
while optimizer.left and (optimizer.best is None or optimizer.best.value > 1e-10):
    candidates = optimizer.ask(min(10, optimizer.left))
    optimizer.tell(candidates, [sphere(candidate.x) for candidate in candidates])

print("best point:", np.round(optimizer.best.x, 4))
print(f"value {optimizer.best.value:.1e} after {optimizer.evaluations} evaluations")
