"""What is asked: sessions of cases, in the terms of the differential test (`crates/apiserver/tests/differential/description.rs`).

A session sets up what its cases need (steps that send, and steps that wait; `for`: the path below which alone one is needed), asks them,
and cleans up. Its cases either change nothing (`independent`) or build on each other in their order. A case's identity is
`NAME.ROUND.NUMBER`: with the seed it names the same request everywhere.
"""
import dataclasses
import json

JSON, YAML = "application/json", "application/yaml"
MERGE, JSON_PATCH, STRATEGIC = "application/merge-patch+json", "application/json-patch+json", "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"


@dataclasses.dataclass
class Case:
    name: str
    request: str
    headers: dict
    body: str | None = None
    # Impersonated; the administrator otherwise.
    user: str | None = None


@dataclasses.dataclass
class Session:
    name: str
    round: int
    setup: list
    cases: list
    cleanup: list = dataclasses.field(default_factory=list)
    # Nothing that is asked changes what is answered later.
    independent: bool = False
    # Errors come in the order of a map of Go's: that of the validation of custom objects by their schema.
    unordered: bool = False

    def identity(self, number):
        return f"{self.name}.{self.round}.{number}"


class Cases(list):
    """Cases while a generator draws them."""

    def ask(self, what, request, body=None, kind=JSON, accept=None, user=None):
        """BODY: a text as it is, or a tree that is written as JSON. KIND: its content type."""
        headers = {}
        if body is not None:
            headers["content-type"] = kind
            body = body if isinstance(body, str) else json.dumps(body)
        if accept is not None:
            headers["accept"] = accept
        self.append(Case(f"{what} {len(self)}", request, headers, body, user))


def write(path, sessions):
    with open(path, "w") as file:
        for session in sessions:
            file.write(json.dumps(dataclasses.asdict(session)) + "\n")


def read(path):
    with open(path) as file:
        trees = [json.loads(line) for line in file]
    return [Session(**{**tree, "cases": [Case(**case) for case in tree["cases"]]}) for tree in trees]
