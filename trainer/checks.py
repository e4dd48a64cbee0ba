"""Settings that cannot work are refused by name, with their value and the rule they break."""

from tinylm.errors import ConfigError


def require(config: object, field: str, holds: bool, rule: str) -> None:
    """Raise `ConfigError` naming `field`, its value and the broken `rule`, unless it `holds`."""
    if not holds:
        raise ConfigError(f"{field} = {getattr(config, field)!r}: {rule}")


def require_positive(config: object, *fields: str) -> None:
    """Raise `ConfigError` for the first of `fields` that is not above zero."""
    for field in fields:
        require(config, field, getattr(config, field) > 0, "must be above 0")
