"""A custom kind with every kind of field, an object that has them all, and who applies and updates such objects in turn (`applied`)."""
import copy
import json

from drawing import odd, trees
from drawing.definitions import Custom, version
from session import APPLY, JSON_PATCH, MERGE, Cases


def _text(**more):
    return {"type": "string", **more}


def _map_of(values):
    return {"type": "object", "additionalProperties": values}


def _set_of(values):
    return {"type": "array", "x-kubernetes-list-type": "set", "items": values}


def _keyed(keys, **fields):
    return {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys,
            "items": {"type": "object", "required": keys[:1], "properties": fields}}


def _object(**fields):
    return {"type": "object", "properties": fields}


OPEN = {"x-kubernetes-preserve-unknown-fields": True}
SPEC = {
    "s": _text(), "sd": _text(default="d"), "nul": _text(nullable=True), "i": {"type": "integer"},
    "l": {"type": "array", "items": _text()}, "ls": _set_of(_text()), "li": _set_of({"type": "integer"}),
    "lm": _keyed(["k", "p"], k=_text(), p={"type": "integer", "default": 1}, v=_text(), o=_object(x=_text(), z=_text(default="q")), **{"in": _set_of(_text())}),
    "lb": _keyed(["b"], b={"type": "boolean"}, v={"type": "number"}),
    "m": _map_of(_text()), "mo": _map_of(_object(x=_text(), y=_text())), "ml": _map_of(_set_of(_text())),
    "ma": {**_object(x=_text(), y=_object(z=_text())), "x-kubernetes-map-type": "atomic"},
    "lo": {"type": "array", "items": _object(x=_text(), d={"type": "integer", "default": 2})},
    "io": {"x-kubernetes-int-or-string": True}, "any": OPEN, "open": {**_object(known=_text(), ls=_set_of(_text())), **OPEN},
    "emb": {"type": "object", "x-kubernetes-embedded-resource": True, **OPEN},
    "o": {**_object(x=_text(default="e"), y=_object(z={"type": "integer"})), "default": {}}}
STATUS = {"a": _text(), "n": {"type": "integer"}, "l": _keyed(["type"], type=_text(), v=_text())}
ROPE = _object(spec=_object(**SPEC), status=_object(**STATUS))

WHOLE = {
    "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}, "finalizers": ["a/b"],
                 "ownerReferences": [{"apiVersion": "v1", "kind": "P", "name": "n", "uid": "u", "controller": True}]},
    "spec": {"s": "a", "i": 1, "l": ["a"], "ls": ["a", "b"], "li": [1], "lm": [{"k": "a", "v": "x", "o": {"x": "q"}}], "lb": [{"b": True, "v": 1.5}],
             "m": {"a": "b"}, "mo": {"a": {"x": "y"}}, "ml": {"a": ["b"]}, "ma": {"x": "y"}, "lo": [{"x": "a"}], "io": "5", "any": {"a": [1]},
             "open": {"known": "a", "y": 1}, "emb": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "labels": {"a": "b"}}},
             "o": {"x": "z", "y": {"z": 1}}},
    "status": {"a": "x", "l": [{"type": "A"}]}}

METADATA = [{}, {}, {"labels": {}}, {"labels": {"a": "x"}}, {"labels": {"b": "y"}}, {"annotations": {"a": "x"}}, {"annotations": {"b": "y"}},
            {"finalizers": ["a/b"]}, {"finalizers": ["c/d"]}, {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "n", "uid": "u"}]}]
STATUSES = [{"a": "x"}, {"n": 1}, {"l": [{"type": "A", "v": "x"}]}, {"l": [{"type": "B"}, {"type": "A"}]}, {"l": []}, {}]
EMBEDDED = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}},
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"a": "b"}}, "spec": {"x": [{"name": "a"}]}}]


def spec(dice):
    """One to five of the fields, mostly right: what owners conflict about."""
    def entry():
        fields = {"p": dice.pick(1, 2), "v": dice.pick("x", "y"), "o": dice.pick({}, {"x": "a"}, {"x": "b"}, {"z": "q"}, None),
                  "in": dice.some("ab", dice.below(3))}
        return {"k": dice.of("abc"), **{name: value for name, value in fields.items() if dice.chance(.4)}}

    fields = {
        "s": lambda: dice.pick("a", "b", None), "sd": lambda: dice.pick("a", "b", "c", ""), "nul": lambda: dice.pick("a", None),
        "i": lambda: dice.pick(1, 2, 0), "l": lambda: [dice.pick("a", "b", "c", "") for _ in range(dice.below(3))],
        "ls": lambda: dice.some("abcd", dice.below(4)), "li": lambda: dice.some([1, 2, 3], dice.below(3)),
        "lm": lambda: [entry() for _ in range(dice.below(4))],
        "lb": lambda: [{"b": b, "v": dice.pick(1, 1.5, 2.0)} for b in dice.some([True, False], dice.below(3))],
        "m": lambda: {key: dice.of("xy") for key in dice.some("abc", dice.below(4))},
        "mo": lambda: {key: {one: dice.of("xy") for one in dice.some("xy", dice.below(3))} for key in dice.some("ab", dice.below(3))},
        "ml": lambda: {key: dice.some("abc", dice.below(3)) for key in dice.some("ab", dice.below(3))},
        "ma": lambda: dice.pick({}, {"x": "a"}, {"x": "b", "y": {"z": "q"}}, None), "lo": lambda: [{"x": dice.of("abc")} for _ in range(dice.below(3))],
        "io": lambda: dice.pick(1, "1", "a"), "any": lambda: odd.value(dice, 2),
        "open": lambda: dice.pick({}, {"known": "a"}, {"x": {"y": 1}}, {"x": {"z": [1]}, "known": "b"}, {"ls": ["a"]}, {"x": 1}, {"x": None}),
        "emb": lambda: dice.of(EMBEDDED), "o": lambda: dice.pick({}, {"x": "a"}, {"y": {"z": 1}}, {"y": {}}, None)}
    drawn = {name: fields[name]() for name in dice.some(sorted(fields), 1 + dice.below(5))}
    if dice.chance(.05):
        drawn[dice.pick("nope", "lm", "ls", "m", "i")] = odd.value(dice, 2)
    return copy.deepcopy(drawn)


def managed_fields(dice, api_version):
    """What somebody writes into `managedFields` himself."""
    entry = {"manager": dice.pick("a", "z"), "operation": dice.pick("Apply", "Update"), "apiVersion": api_version, "fieldsType": "FieldsV1",
             "fieldsV1": dice.pick({"f:spec": {"f:s": {}}}, {"f:spec": {"f:lm": {'k:{"k":"a"}': {".": {}}}}})}
    return dice.pick([], [{}], None, [entry], [entry])


def applied(dice, round, world):
    """Two objects that several apply, update, and delete, in one or two versions."""
    versions = ["v1", "v2"] if dice.chance(.4) else ["v1"]
    custom = Custom("applied", round, "ropes", "Rope",
                    [version(ROPE, name, storage=name == "v1", subresources={"status": {}}) for name in versions], scope="Cluster")
    cases = Cases()
    for _ in range(45):
        api, name, sub = dice.of(versions), dice.pick("one", "one", "two"), dice.pick("", "", "", "", "/status")
        one = f"{custom.path(api)}/{name}"
        content = {"status": dice.of(STATUSES)} if sub and dice.chance(.9) else {"spec": spec(dice)}
        head = {"apiVersion": f"{custom.group}/{api}", "kind": "Rope"}
        metadata = json.loads(json.dumps(dice.of([*METADATA, {"name": name}])))
        patch = {**({"metadata": metadata} if metadata or dice.chance(.5) else {}), **content}
        how = dice.share({"apply": 62, "merge": 13, "put": 7, "json patch": 5, "managed": 5, "delete": 3, "get": 5})
        if how == "apply":
            options = f"fieldManager={dice.of('abc')}{dice.pick('', '', '&force=true')}{dice.pick('', '', '', '', '', '', '&dryRun=All')}"
            cases.ask(how, f"PATCH {one}{sub}?{options}", {**head, **patch}, APPLY)
        elif how == "merge":
            cases.ask(how, f"PATCH {one}{sub}?fieldManager={dice.of('abu')}", patch, MERGE)
        elif how == "put":
            cases.ask(how, f"PUT {one}{sub}?fieldManager={dice.of('au')}", {**head, **patch, "metadata": {**metadata, "name": name}})
        elif how == "json patch":
            cases.ask(how, f"PATCH {one}?fieldManager=j", trees.json_patch(dice, patch), JSON_PATCH)
        elif how == "managed":
            patch["metadata"] = {"managedFields": managed_fields(dice, head["apiVersion"])}
            cases.ask(how, f"PATCH {one}?fieldManager={dice.of('abu')}", patch, MERGE)
        else:
            cases.ask(how, f"{how.upper()} {one}")
    for name in ("one", "two"):
        cases.ask("end", f"GET {custom.path()}/{name}")
    return custom.held(cases, freed=["one", "two"], unordered=True)
