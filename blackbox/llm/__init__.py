"""Language models as operators of evolution: providers, budgets, stored answers, and a sandbox for what they write."""

from blackbox.lazy import lazy_exports

__all__, __getattr__ = lazy_exports(
    __name__,
    {
        "budget": ["Budget"],
        "chat_endpoint": ["OpenAI"],
        "client": ["Client"],
        "json_schema": ["extract"],
        "ledger": ["Call", "Spent"],
        "provider": ["AttemptFailed", "Message", "Provider", "Reply", "Request", "prompt"],
        "recorded": ["Recorded"],
        "sandbox": ["Sandboxed", "run_sandboxed", "sandbox_levels"],
        "scripted": ["Scripted"],
    },
)
