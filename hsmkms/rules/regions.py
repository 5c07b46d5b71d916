"""The regions that an installation serves."""

from collections.abc import Collection

from hsmkms.errors import ApiError


def check_served(region: str, served: Collection[str], error: type[ApiError]) -> None:
    """Raise that error for a region that the installation does not serve."""
    if region not in served:
        raise error(f"The region {region} is not served here; served: {', '.join(served)}")
