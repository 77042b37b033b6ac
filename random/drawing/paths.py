"""Paths, verbs, types of bodies and of answers of a custom kind (`paths`)."""
import json

from drawing.definitions import Custom, version
from session import APPLY, JSON, MERGE, Cases

OPEN = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
KINDS = [JSON, MERGE, APPLY, "application/yaml", "application/json-patch+json", "application/vnd.kubernetes.protobuf", "application/cbor", "text/plain", "",
         "application/apply-patch+cbor", "application/strategic-merge-patch+json", "application/json;charset=utf-8", "application/x-www-form-urlencoded"]
ACCEPTED = ["text/plain", "application/yaml", "*/*", "application/json;as=Table;v=v1;g=meta.k8s.io", "application/vnd.kubernetes.protobuf",
            "application/xml", "application/cbor", "application/json, */*;q=0.1", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"]
NAMES = ["nope", "A_b", "a%20b", "%2e", "one%2fx", "x" * 260]
SUBRESOURCES = ["status", "scale", "log", "nope", "finalize", "status/x"]
# Not HEAD: to look at its body there must be one.
VERBS = ["GET", "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
OPTIONS = ["", "&fieldManager=a", "&fieldValidation=x", "&dryRun=x", "&pretty=x", "&force=true"]


def paths(dice, round, world):
    subresources = dice.pick({}, {"status": {}})
    versions = [version(OPEN, subresources=subresources), version(OPEN, "v2", served=dice.chance(.5), storage=False)]
    custom = Custom("paths", round, "roads", "Road", versions, scope=dice.pick("Namespaced", "Cluster"))
    bodies = ["", "{}", "[]", "x", json.dumps(custom.object("one")), json.dumps(custom.object("two")),
              json.dumps({"apiVersion": "v1", "kind": "DeleteOptions"})]
    cases = Cases()
    for _ in range(60):
        path, verb = _path(dice, custom), dice.of(VERBS)
        writes = verb in ("POST", "PUT", "PATCH", "DELETE")
        body = kind = None
        if writes:
            path += "?dryRun=All" + dice.of(OPTIONS)
        if writes and (verb != "DELETE" or dice.chance(.3)):
            kind = dice.of(KINDS) if dice.chance(.6) else MERGE if verb == "PATCH" else JSON
            body = dice.of(bodies)
        cases.ask("path", f"{verb} {path}", body, kind, accept=dice.of(ACCEPTED) if dice.chance(.2) else None, user="nobody" if dice.chance(.1) else None)
    return custom.held(cases, objects=[custom.object("one")], independent=True)


def _path(dice, custom):
    """Of the kind or an object of it, each part now and then another."""
    parts = ["apis", custom.group, _or(dice, "v1", ["v2", "v2", "v3", ""])]
    if dice.chance(.85) == bool(custom.namespace):
        parts += ["namespaces", _or(dice, "default", ["nope", "", "A_b", "kube-system"])]
    parts.append(_or(dice, "roads", ["road", "nope", "roads.", "Roads"]))
    if dice.chance(.6):
        parts.append(_or(dice, "one", NAMES))
    if dice.chance(.3):
        parts.append(dice.of(SUBRESOURCES))
    path = "/" + "/".join(parts)
    if dice.chance(.1):
        path = path.replace("/apis/", dice.pick("/api/", "/apis//", "//apis/", "/Apis/", "/apis/x/"), 1)
    return path + "/" if dice.chance(.07) else path


def _or(dice, right, others):
    return dice.of(others) if dice.chance(.25) else right
