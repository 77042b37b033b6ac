"""Metadata of custom objects with anything in it (`metadata`)."""
import copy

from drawing.definitions import Custom, version
from session import APPLY, JSON, MERGE, YAML, Cases

LABEL_KEYS = ["a", "a/b", "a.b/c", "A", "-a", "a b", "a/b/c", "/a", "a/", "kubernetes.io/x", "x" * 64, "x" * 63, "y" * 254 + "/a", "é", ""]
LABEL_VALUES = ["", "a", "A-b_c.d", "a b", "-a", "x" * 63, "x" * 64, "é", 1, None, True]
OWNER = {"apiVersion": "v1", "kind": "P", "name": "n", "uid": "u"}
FIELDS = {
    "name": ["a", "a", "A", "a_b", "a.b", "-a", "a/b", ".", "..", "a%", "é", "x" * 253, "x" * 254, "", 1, None, "a" * 25],
    "generateName": ["A", "x" * 300, "", "-", "a_", 1],
    "namespace": ["default", "other", "", None, "A b"],
    "finalizers": [["a/b"], ["a"], [""], ["a/b", "a/b"], ["kubernetes"], ["orphan"], ["foregroundDeletion"], ["a/b/c"], None, "x", [1],
                   ["foregroundDeletion", "orphan"]],
    "ownerReferences": [[], [{}], [OWNER], [{**OWNER, "controller": True}, {**OWNER, "name": "m", "uid": "v", "controller": True}],
                        [{**OWNER, "kind": "Event"}], [{"apiVersion": "a/b/c", "kind": "", "name": "", "uid": ""}],
                        [{**OWNER, "blockOwnerDeletion": True, "nope": 1}], [OWNER, OWNER], {"a": 1}, None],
    "resourceVersion": ["", "1", "0", "x", 1], "uid": ["", "x", 1], "generation": [0, 1, -1, 5, "1"],
    "creationTimestamp": [None, "2020-01-01T00:00:00Z", "x", "2020-01-01", 5], "deletionTimestamp": [None, "2020-01-01T00:00:00Z"],
    "deletionGracePeriodSeconds": [0, -1, 5, "1"], "selfLink": ["x"], "clusterName": ["x"], "nope": [1], "initializers": [{}]}
OPTIONS = ["", "", "&fieldValidation=Strict", "&fieldValidation=Ignore", "&fieldManager=x", "&fieldManager=" + "x" * 129, "&fieldManager=a%0Ab"]


def _managed_fields(api_version):
    entry = {"manager": "x", "operation": "Update", "apiVersion": api_version, "fieldsType": "FieldsV1"}
    return [[], [{}], None, [{"manager": "x"}], [{**entry, "fieldsV1": {"f:spec": {}}}], [{**entry, "apiVersion": "v1", "fieldsV1": {}}],
            [{**entry, "fieldsType": "FieldsV2"}], [{**entry, "manager": "x" * 129, "operation": "Apply", "fieldsV1": {"f:spec": {"k:x": {}}}}],
            [{**entry, "subresource": "x" * 257, "time": "2020-01-01T00:00:00Z"}]]


def metadata(dice, round, world):
    schema = {"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}
    if dice.chance(.3):
        schema["properties"]["metadata"] = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 20, "pattern": "^[a-z]"}}}
    custom = Custom("metadata", round, "metas", "Meta", [version(schema)], scope=dice.pick("Namespaced", "Cluster"))
    fields = {**FIELDS, "managedFields": _managed_fields(f"{custom.group}/v1")}

    def labels():
        return {dice.of(LABEL_KEYS): dice.of(LABEL_VALUES) for _ in range(dice.below(3))}

    def drawn(name):
        names = dice.some(sorted([*fields, "labels", "annotations"]), 1 + dice.below(3))
        return {"name": name, **{one: copy.deepcopy(dice.of(fields[one])) if one in fields else labels() for one in names}}

    path, cases = custom.path(), Cases()
    for _ in range(50):
        options, how = dice.of(OPTIONS), dice.share({"create": 50, "put": 15, "merge": 20, "apply": 15})
        if how == "create":
            content = drawn("new")
            if dice.chance(.1):
                del content["name"]
            cases.ask(how, f"POST {path}?dryRun=All{options}", custom.object("new", {"a": 1}, metadata=content), dice.pick(JSON, JSON, YAML))
        elif how == "put":
            content = drawn("one")
            content["name"] = content["name"] if dice.chance(.3) else "one"
            cases.ask(how, f"PUT {path}/one?dryRun=All{options}", custom.object("one", {"a": 1}, metadata=content))
        elif how == "merge":
            content = drawn("one")
            if dice.chance(.8):
                del content["name"]
            cases.ask(how, f"PATCH {path}/one?dryRun=All{options}", {"metadata": content}, MERGE)
        else:
            content = drawn("one")
            del content["name"]
            forced = dice.pick("", "&force=true")
            cases.ask(how, f"PATCH {path}/{dice.pick('one', 'fresh')}?dryRun=All&fieldManager=a{forced}", custom.object("", {"a": 1}, metadata=content), APPLY)
    first = custom.object("one", {"a": 1}, metadata={"name": "one", "labels": {"x": "y"}, "finalizers": ["q/r"]})
    return custom.held(cases, objects=[first], freed=["one"], independent=True, unordered=True)
