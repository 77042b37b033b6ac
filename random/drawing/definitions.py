"""Custom kinds: their definitions, and sessions about one."""
from session import Session

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def version(schema, name="v1", served=True, storage=True, **more):
    return {"name": name, "served": served, "storage": storage, "schema": {"openAPIV3Schema": schema}, **more}


def definition(plural, group, versions, kind, scope="Namespaced"):
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": f"{plural}.{group}"},
            "spec": {"group": group, "scope": scope, "names": {"plural": plural, "kind": kind}, "versions": versions}}


class Custom:
    """A custom kind of one session: a group of its own, so that sessions can be held side by side."""

    def __init__(self, session, round, plural, kind, versions, scope="Namespaced"):
        self.session, self.round = session, round
        self.group = f"{session}{round}.random.example.com"
        self.kind = kind
        self.definition = definition(plural, self.group, versions, kind, scope)
        self.namespace = "namespaces/default/" if scope == "Namespaced" else ""

    @property
    def itself(self):
        return f"{DEFINITIONS}/{self.definition['metadata']['name']}"

    def path(self, version="v1"):
        """Of its objects."""
        return f"/apis/{self.group}/{version}/{self.namespace}{self.definition['spec']['names']['plural']}"

    def object(self, name, spec=None, version="v1", **more):
        base = {"apiVersion": f"{self.group}/{version}", "kind": self.kind, "metadata": {"name": name}}
        return {**base, **({"spec": spec} if spec is not None else {}), **more}

    def held(self, cases, objects=(), freed=(), **more):
        """The session. OBJECTS: there from the beginning; FREED: names of those that may have got finalizers."""
        served = [one["name"] for one in self.definition["spec"]["versions"] if one["served"]]
        plural = self.definition["spec"]["names"]["plural"]
        setup = [{"send": f"POST {DEFINITIONS}", "body": self.definition}, {"until": f"GET {self.itself}"}]
        setup += [{"until": f"GET /apis/{self.group}/{name}/{plural}"} for name in served]
        setup += [{"send": f"POST {self.path()}", "body": one} for one in objects]
        cleanup = [f"PATCH {self.path()}/{name}" for name in freed] + [f"DELETE {self.itself}"]
        return Session(self.session, self.round, setup, cases, cleanup, **more)
