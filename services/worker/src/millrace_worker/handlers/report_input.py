from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

from millrace_worker.handlers.file_names import NOT_IN_NAMES

MAX_INLINE_ROWS = 10_000

Format = Literal["csv", "xlsx", "json", "pdf"]
ColumnName = Annotated[str, Field(min_length=1, max_length=255)]
Scalar = StrictBool | StrictInt | StrictFloat | StrictStr | None


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Filter(_Model):
    """A condition a row must meet to be in the report."""

    column: ColumnName = Field(description="The column that is compared.")
    op: Literal["eq", "ne", "lt", "le", "gt", "ge", "contains", "in"] = Field(
        description="eq, ne, lt, le, gt, ge compare; contains looks for a text inside (upper and lower case differ);"
        " in asks whether the value is one of a list."
    )
    value: Scalar | Annotated[list[Scalar], Field(min_length=1, max_length=1_000)] = Field(
        description="What the column is compared with: a list for in, else one value. null, with eq and ne, means a"
        " missing value."
    )


class Aggregate(_Model):
    """A value computed over the rows of each group."""

    column: ColumnName | None = Field(
        default=None,
        description="The column it is computed of; only count does without, and then counts rows.",
    )
    function: Literal["count", "sum", "mean", "min", "max"] = Field(
        description="count counts values that are not missing; sum and mean need a numeric column."
    )
    as_: ColumnName | None = Field(
        default=None,
        alias="as",
        description='The name of the result column; by default "function_column", or "count".',
    )

    @property
    def name(self) -> str:
        """The name of the result column."""
        if self.as_ is not None:
            return self.as_
        return self.function if self.column is None else f"{self.function}_{self.column}"


class Sort(_Model):
    """A column of the result to sort by. Missing values come last."""

    column: ColumnName = Field(description="A column of the result.")
    descending: bool = Field(default=False, description="Whether the largest value comes first.")


class ReportQuery(_Model):
    """What the report says of its rows: filter, then group, then sort, then limit, then choose columns."""

    columns: Annotated[list[ColumnName], Field(min_length=1, max_length=1_000)] | None = Field(
        default=None, description="The columns of the result, in their order; by default all."
    )
    filter: list[Filter] = Field(default=[], max_length=100, description="Conditions that must all be met.")
    group_by: list[ColumnName] = Field(
        default=[],
        max_length=20,
        description="One result row for each combination of values of these columns, in the order of their values;"
        " without aggregates, with the count of rows.",
    )
    aggregates: list[Aggregate] = Field(
        default=[],
        max_length=100,
        description="What is computed of each group, or of all rows without group_by.",
    )
    sort: list[Sort] = Field(
        default=[], max_length=20, description="How the result is sorted, most important first."
    )
    limit: int | None = Field(default=None, ge=1, description="At most this many rows, the first ones.")

    @property
    def is_grouped(self) -> bool:
        """Whether the result's columns are groups and aggregates instead of the columns of the rows."""
        return bool(self.group_by or self.aggregates)

    def columns_read(self) -> set[str] | None:
        """Return the columns of the rows that matter; None for all."""
        if not self.is_grouped and self.columns is None:
            return None
        read = {condition.column for condition in self.filter}
        if self.is_grouped:
            read |= set(self.group_by) | {item.column for item in self.aggregates if item.column is not None}
        else:
            read |= {*(self.columns or ()), *(item.column for item in self.sort)}
        return read


class ReportInput(ReportQuery):
    """What to report on, and how."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["dataset"]}, {"required": ["rows"]}]}
    )

    dataset: Annotated[str, Field(min_length=1, max_length=255)] | None = Field(
        default=None, description="The dataset to report on, as imports:load filled it. Either this or rows."
    )
    rows: Annotated[list[dict[str, Any]], Field(max_length=MAX_INLINE_ROWS)] | None = Field(
        default=None, description="The rows to report on, given here. Either this or dataset."
    )
    format: Format = Field(description="The kind of file.")
    title: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="The heading of a pdf and the sheet's name in an xlsx.",
    )
    file_name: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        pattern=rf"^[^\\{NOT_IN_NAMES}]+$",
        description="The file's name; by default made of the dataset's name or the title. The format's ending is added.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.dataset is None) == (self.rows is None):
            raise ValueError("give either dataset or rows")
        return self
