"""What a classifier is asked for: where labels come from, how documents are split, what is read, how it is trained."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from data_prep import settings
from data_prep.classify.model import ModelSettings
from data_prep.classify.preparation import TextSettings
from data_prep.settings import Settings

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _./+#-]{0,99}")


class SplitSettings(Settings):
    """Which sites are trained on, which pick the threshold, which give the figures: whole repositories (of web pages:
    sites), by a hash of the seed and their names.

    The report trains on 70 % and validates on 30 % (section 2.2.3); these are cut in two here, so that figures are
    of sites that the threshold has not seen either.
    """

    train: float = Field(0.7, gt=0, lt=1)
    validation: float = Field(0.15, gt=0, lt=1)
    """The rest is for the test."""
    seed: int = 1234

    @model_validator(mode="after")
    def _leaves_a_test(self) -> "SplitSettings":
        if self.train + self.validation > 0.999:
            raise ValueError(f"train {self.train:g} and validation {self.validation:g} leave nothing to test on")
        return self


class ClassifyConfig(Settings):
    """A classifier: exactly one of `labels`, `label` and `table` says which document has which label.

    Documents without a label are not used. The numbers are ours, where nothing else is said.
    """

    labels: Mapping[str, str] = {}
    """Label -> SQL over columns of documents, annotations (`web.has_code`) and oracles (`oracle_NAME.score`); the first
    that is true counts."""
    label: str | None = Field(None, min_length=1)
    """SQL that gives the label itself, such as `oracle_NAME.label`."""
    table: Path | None = None
    """Parquet, CSV or JSONL with the columns `label` and `id`, `site` or `repository`."""
    positive: str | None = None
    """The label to be found, of two: a threshold is picked for it."""
    recall: float = Field(0.99, gt=0, le=1)
    """Of `positive`, on the validation sites. 0.99 is the report's."""
    per: Literal["document", "repository"] = "document"
    """`repository`: all documents of a repository (site) get one label, by the mean of what is said of each."""
    documents_per_label: int = Field(1_000_000, ge=1)
    """To train on at most; those with the smallest hashes of the seed and their ids."""
    evaluated_documents: int = Field(100_000, ge=1)
    """To validate on, and to test on, at most, of all labels together, so that their shares stay what they are."""
    minimum_train: int = Field(50, ge=2)
    minimum_evaluated: int = Field(10, ge=1)
    """Documents of each label, without which nothing is trained: to train on; to validate on and to test on."""
    split: SplitSettings = SplitSettings()
    text: TextSettings = TextSettings()
    model: ModelSettings = ModelSettings()

    @field_validator("labels")
    @classmethod
    def _named(cls, labels: Mapping[str, str]) -> Mapping[str, str]:
        for label, query in labels.items():
            if not _LABEL.fullmatch(label):
                raise ValueError(f"label {label!r}: letters, digits, spaces and _./+#- are expected")
            if not query.strip():
                raise ValueError(f"label {label!r} needs SQL that is true for its documents")
        return labels

    @model_validator(mode="after")
    def _one_origin(self) -> "ClassifyConfig":
        given = [name for name in ("labels", "label", "table") if getattr(self, name)]
        if len(given) != 1:
            said = f"{' and '.join(given)} are given" if given else "none is given"
            raise ValueError(f"one of labels, label and table says which documents have which label; {said}")
        if self.labels and len(self.labels) < 2:
            raise ValueError("labels: two are needed at least")
        if self.positive is not None and self.labels and self.positive not in self.labels:
            raise ValueError(f"positive {self.positive!r} is none of the labels {', '.join(self.labels)}")
        if self.positive is not None and len(self.labels) > 2:
            raise ValueError(f"a threshold for {self.positive!r} needs two labels, {len(self.labels)} are given")
        if self.positive is not None and self.per == "repository":
            raise ValueError("`per: repository` takes the label that is most probable, so it has no `positive`")
        return self


def load_config(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> ClassifyConfig:
    """A YAML file, changed by `overrides`, whose sections are merged. Raises `DataError` naming the key."""
    return settings.load_settings(ClassifyConfig, "classify", path, overrides)
