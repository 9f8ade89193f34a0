"""What tests of models trained from function values share."""

from collections.abc import Iterator

import pytest

from blackbox.kernels import dispatch


@pytest.fixture(scope="module")
def little_noise_by_compiled_code() -> Iterator[None]:
    """XLA takes a second to compile its own generator, and there is one for every shape."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "_WORTHWHILE", 0)
        yield
