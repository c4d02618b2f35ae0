"""Its models, which the data platform's tasks import, too."""

from dataclasses import dataclass


@dataclass
class Shop:
    """A shop that repairs.

    Attributes:
        name: As people write it.
        city: As people write it.
    """

    name: str
    city: str

    def slug(self) -> str:
        """Say by which name the application's addresses call it."""
        return f"{self.name} {self.city}".lower().replace(" ", "-")
