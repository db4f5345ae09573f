"""The check of arguments that are one of a few words."""


def check_choice(name, value, choices):
    """Raises a ValueError that names the argument unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {list(choices)}. Received: {name}={value!r}")
