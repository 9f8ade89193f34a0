"""What tests of kernels share."""

from collections.abc import Iterator
from typing import Any

import jax
import pytest
from jax._src import compiler

DEFAULTS = [("xla_cpu_use_fusion_emitters", True), ("xla_cpu_opt_preset", "CPU_OPT_PRESET_DEFAULT")]
"""Of the flags that tests/conftest.py sets."""


@pytest.fixture(scope="module", autouse=True)
def optimized_programs() -> Iterator[None]:
    """Programs as users have them: their last bits depend on what XLA fuses."""
    options_of = compiler.get_compile_options

    def options(*args: Any, **settings: Any) -> Any:
        made = options_of(*args, **settings)
        made.env_option_overrides = [*DEFAULTS, *made.env_option_overrides]
        return made

    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "get_compile_options", options)
        yield
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", True)
