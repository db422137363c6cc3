"""What went wrong, when it is the input that is wrong."""


class UserError(ValueError):
    """Bad input. The message is one line: the thing, its value, and what is allowed."""


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise `UserError` unless `condition` holds."""
    if not condition:
        raise UserError(f"{name} must be {allowed}, got {value!r}")
