"""What every section of a recipe is, and numbers that many of them hold."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Name = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """Frozen, and strict about its keys. No number is infinite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
