"""Evolution of programs whose marked regions change, by language models and by offline operators."""

from blackbox.lazy import lazy_exports

__all__, __getattr__ = lazy_exports(
    __name__,
    {
        "bandit": ["Arm", "Bandit"],
        "constants": ["Tuned", "tune_constants", "with_constants"],
        "evaluation": ["Evaluation", "ProgramEvaluator"],
        "evolution": ["ProgramEvolution"],
        "feedback": ["shown"],
        "genome": ["Edit", "Edited", "Region", "apply_edits", "code_block", "parse_edits", "regions", "rewrite_region"],
        "identity": ["digest", "signature", "similarity"],
        "primitives": ["Primitives"],
        "prompts": ["messages"],
        "screen": ["impure"],
        "search": ["Tuning", "search_programs", "tune"],
        "state": ["EvolutionState", "Member", "Program", "Rejected", "from_json", "to_json"],
        "variation": ["vary"],
    },
)
