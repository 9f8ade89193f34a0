"""A space of several kinds of variables, some of them conditional, and an objective that sometimes fails."""

import math

import blackbox as bb

space = bb.Space(
    {
        "learning_rate": bb.Float(1e-5, 1.0, log=True),
        "layers": bb.Int(1, 8),
        "optimizer": bb.Choice(
            {
                "sgd": bb.Space({"momentum": bb.Float(0.0, 0.99)}),
                "adam": bb.Space({"beta2": bb.Float(0.9, 0.9999)}),
            }
        ),
        "normalize": bb.Bool(),
    }
)


def train(point):
    """Stands in for a training run: it diverges when the steps are too large for the depth."""
    if point["learning_rate"] * point["layers"] > 0.02:
        raise FloatingPointError("loss is not finite")
    loss = (math.log10(point["learning_rate"]) + 3) ** 2 + abs(point["layers"] - 4)
    if point["optimizer"] == "sgd":
        return loss + 2 * (0.9 - point["momentum"]) ** 2 + 0.5
    return loss + (point["beta2"] - 0.99) ** 2 + (0.0 if point["normalize"] else 0.3)


result = bb.minimize(train, space, budget=400, seed=1)

print("best point:", result.x)
print("failed evaluations:", result.failures)
print(f"value {result.value:.3f} after {result.evaluations} evaluations")
