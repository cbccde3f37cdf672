"""The FaceSets of a reproduction, made when they are first asked for.

OUT/corpus/                   identities
OUT/expressions/raw/          neutral, posed and spontaneous faces of people of the expression corpus
OUT/expressions/corpus/       their pure expressions: decoupled, on the template
OUT/expressions/classifier/   pure posed expressions of other people, for the classifier
"""

from pathlib import Path

from meshgan.data.corpora.anny import make_identities
from meshgan.data.corpora.expressions import ExpressionPlan, make_expressions
from meshgan.data.expression import decouple
from meshgan.data.faceset import FaceSet
from meshgan.errors import UsageError
from meshgan.report.scales import Scale


def identity_corpus(out: Path, size: Scale) -> FaceSet:
    """The default corpus of identities."""
    path = out / "corpus"
    if not (path / "card.json").is_file():
        make_identities(path, size.identities)
    faces = FaceSet.open(path)
    if len(faces) != size.identities:
        raise UsageError(f"{path} holds {len(faces)} faces, this scale has {size.identities}; choose another --out.")
    return faces


def expression_corpus(out: Path, size: Scale) -> FaceSet:
    """Pure expressions, posed and spontaneous."""
    return _pure(out / "expressions" / "raw", out / "expressions" / "corpus", size.expressions)


def classifier_corpus(out: Path, size: Scale) -> FaceSet:
    """Pure posed expressions of people who are not in the expression corpus."""
    return _pure(out / "expressions" / "classifier-raw", out / "expressions" / "classifier", size.recognised)


def _pure(raw: Path, path: Path, plan: ExpressionPlan) -> FaceSet:
    if not (raw / "card.json").is_file():
        make_expressions(raw, plan)
    faces = FaceSet.open(raw)
    if len(faces) != len(plan):
        raise UsageError(f"{raw} holds {len(faces)} faces, this scale has {len(plan)}; choose another --out.")
    if not (path / "card.json").is_file():
        decouple(faces, path)
    return FaceSet.open(path)
