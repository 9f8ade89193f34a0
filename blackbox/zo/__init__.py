"""Zeroth-order estimation: gradients from function values alone, for models and for black boxes."""

from blackbox.lazy import lazy_exports

__all__, __getattr__ = lazy_exports(
    __name__,
    {
        "cge": ["CGE"],
        "coordinate_descent": ["CoordinateDescent"],
        "deep_zero": ["DeepZero", "grasp_densities", "grasp_scores"],
        "dequantization": ["dequantized"],
        "differences": ["Estimate", "Estimator"],
        "fed_zo": ["FedZO"],
        "federated": ["Cost", "FederatedMethod", "play"],
        "fzoos": ["FZooS"],
        "gradient": ["value_and_grad"],
        "guided": ["GuidedES"],
        "hizoo": ["HiZOO"],
        "low_rank": ["LOZO"],
        "mezo": ["MeZO"],
        "quantized": ["QuantizedWeight", "quantize"],
        "qzo": ["QZO"],
        "random_descent": ["RandomDescent"],
        "rge": ["RGE"],
        "scaffold": ["Scaffold"],
        "smoothing": ["smoothing_radius"],
        "sparse_mezo": ["SparseMeZO"],
        "spsa": ["SPSA"],
        "svrg": ["Anchor", "anchored", "variance_reduced"],
        "zo": ["ZO"],
    },
)
