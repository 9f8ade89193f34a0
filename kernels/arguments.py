"""What all operations ask of their arguments; whatever is wrong is named before any code runs on it."""

from __future__ import annotations

from numbers import Integral
from typing import Any, Literal

from blackbox.arrays import described, dtype_name
from blackbox.errors import SettingError

_INTEGERS = ("int", "uint")


def require_count(name: str, value: Any, least: int = 0) -> None:
    """Raises SettingError unless ``value`` is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise SettingError(f"{name} must be an integer >= {least}, got {value!r}")


def require_integer(name: str, value: Any) -> None:
    """Raises SettingError unless ``value`` is one integer, of Python's or in an array of any library."""
    if type(value) is int:
        return
    if isinstance(value, bool) or not (isinstance(value, Integral) or _is_integer_array(value)):
        raise SettingError(f"{name} must be an integer, got {described(value)}")


def _is_integer_array(value: Any) -> bool:
    return getattr(value, "shape", None) == () and dtype_name(value).startswith(_INTEGERS)


def require_words(name: str, value: Any, shape: tuple[int | None, ...]) -> None:
    """Raises SettingError unless ``value`` is an array of uint32 of this shape, of which None is any number."""
    own = getattr(value, "shape", None)
    fits = own is not None and len(own) == len(shape) and all(b in (a, None) for a, b in zip(own, shape, strict=True))
    if not fits or dtype_name(value) != "uint32":
        sizes = ", ".join("n" if size is None else str(size) for size in shape)
        raise SettingError(
            f"{name} must be an array of uint32 of shape ({sizes}{',' * (len(shape) == 1)}), got {described(value)}"
        )


def require_array(name: str, value: Any, of: Literal["integers", "real numbers"] = "real numbers") -> None:
    """Raises SettingError unless ``value`` is an array of any library of such numbers."""
    allowed = _INTEGERS if of == "integers" else (*_INTEGERS, "float", "bfloat16")
    if not hasattr(value, "shape") or not hasattr(value, "dtype") or not dtype_name(value).startswith(allowed):
        raise SettingError(f"{name} must be an array of {of}, got {described(value)}")
