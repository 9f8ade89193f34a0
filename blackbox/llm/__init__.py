"""Language models as operators of evolution: providers, budgets, stored answers, and a sandbox for what they write."""

from blackbox.lazy import lazy_exports

__all__, __getattr__ = lazy_exports(
    __name__,
    {
        "budget": ["Budget"],
        "chat_endpoint": ["OpenAI"],
        "client": ["Client"],
        "embedded": ["Embedded"],
        "evollm": ["EvoLLM"],
        "json_schema": ["extract"],
        "ledger": ["Call", "Spent"],
        "program.evaluation": ["ProgramEvaluator"],
        "program.evolution": ["ProgramEvolution"],
        "program.search": ["search_programs"],
        "llambo": ["LLAMBO"],
        "opro": ["OPRO"],
        "provider": ["AttemptFailed", "Message", "Provider", "Refused", "Reply", "Request", "prompt"],
        "recorded": ["Recorded"],
        "sandbox": ["Sandboxed", "run_sandboxed", "sandbox_levels"],
        "scripted": ["Scripted"],
        "text.evoprompt_de": ["EvoPromptDE"],
        "text.evoprompt_ga": ["EvoPromptGA"],
        "text.exemplar_search": ["ExemplarSearch", "exemplar_pool"],
        "text.gepa": ["GEPA"],
        "text.held_out": ["FinalPick", "final_pick"],
        "text.opro": ["TextOPRO"],
        "text.proposals": ["ReplyCounts"],
        "text.rollouts": ["Evaluated", "Rollout", "Rollouts"],
        "text.search": ["TextSearch", "TextStrategy", "search_text"],
    },
)
