"""What answers look like, as marshmallow schemas. They are written without these, which make the API document."""

from marshmallow import RAISE, Schema, fields
from marshmallow.validate import OneOf, Range

FAULT_CODES = (
    "missing",
    "null",
    "type",
    "range",
    "vector_type",
    "vector_dimension",
    "vector_not_number",
    "vector_not_finite",
    "vector_zero",
    "vector_elements",
    "not_json",
    "unknown_id",
    "shape",
    "value",
    "vector_rows",
)


class _Shape(Schema):
    class Meta:
        unknown = RAISE


def _text(description: str, **options: object) -> fields.String:
    return fields.String(required=True, metadata={"description": description}, **options)  # type: ignore[arg-type]


class Match(_Shape):
    id = _text("The product's id.")
    name = _text("The product's name.")
    score = fields.Float(
        required=True,
        validate=Range(-1, 1),
        metadata={"description": "Cosine similarity of user and product, rounded to six decimals."},
    )


class Answer(_Shape):
    name = _text("The user's name, as it was sent.")
    best = fields.List(
        fields.Nested(Match), required=True, metadata={"description": "Matches from the highest score down."}
    )
    worst = fields.List(
        fields.Nested(Match), required=True, metadata={"description": "Matches from the lowest score up."}
    )


class Fault(_Shape):
    pointer = _text("JSON pointer (RFC 6901) to what is at fault in the body.")
    code = _text("What is wrong, for programs.", validate=OneOf(FAULT_CODES))
    detail = _text("What is wrong, for people.")


class FailedUser(_Shape):
    name = _text("The user's name; null where there is no valid one.", allow_none=True)
    error = fields.Nested(Fault, required=True)


class Problem(_Shape):
    type = _text("Always about:blank: the status says what kind of problem it is.")
    title = _text("The phrase of the status.")
    status = fields.Integer(required=True, metadata={"description": "The status of the answer."})
    detail = _text("What is wrong with this request.")
    error = fields.String(metadata={"description": "The detail again, where the Open Inference Protocol wants it."})
    errors = fields.List(fields.Nested(Fault), metadata={"description": "Every fault found; of status 422 only."})


class Status(_Shape):
    status = _text("`live` or `ready`.", validate=OneOf(("live", "ready")))
    live = fields.Boolean(metadata={"description": "Of the Open Inference Protocol."})
    ready = fields.Boolean(metadata={"description": "Of the Open Inference Protocol."})


class SideRecall(_Shape):
    k = fields.Integer(required=True, metadata={"description": "Length of the lists compared."})
    users = fields.Integer(required=True, metadata={"description": "How many users it was measured on."})
    mean = fields.Float(required=True, metadata={"description": "Mean share of the exact top k that was found."})
    lower_bound = fields.Float(required=True, metadata={"description": "Lower end of its 95 % confidence interval."})


class Recall(_Shape):
    target = fields.Float(required=True, metadata={"description": "The recall@10 asked for."})
    kept = fields.Boolean(required=True, metadata={"description": "Whether each side reached it."})
    users_from = _text("The file of users it was measured on.")
    best = fields.List(fields.Nested(SideRecall), required=True)
    worst = fields.List(fields.Nested(SideRecall), required=True)


class Index(_Shape):
    build_id = _text("The build that answers.")
    products = fields.Integer(required=True, metadata={"description": "Products in the catalogue."})
    dimension = fields.Integer(required=True, metadata={"description": "Numbers in a vector."})
    index = _text("Kind of index, as FAISS names it.")
    recall = fields.Nested(Recall, required=True)
