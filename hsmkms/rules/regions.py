"""The regions that an installation serves."""

from collections.abc import Collection
from typing import Never

from hsmkms.errors import ApiError


def refuse(region: str, served: Collection[str], error: type[ApiError]) -> Never:
    """Raise that error for a region that the installation does not serve."""
    raise error(f"The region {region} is not served here; served: {', '.join(served)}")
