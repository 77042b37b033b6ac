"""Scales of custom objects that are read and written, beside the objects themselves (`scales`)."""
from drawing.definitions import Custom, version
from session import APPLY, JSON_PATCH, MERGE, STRATEGIC, Cases

OPEN = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
CLOSED = {"type": "object", "properties": {
    "spec": {"type": "object", "properties": {
        "n": {"type": "integer", "maximum": 50}, "a": {"type": "object", "properties": {"b": {"type": "integer", "default": 2}}}, "m": OPEN,
        "sel": {"type": "string"}}},
    "status": OPEN}}
COUNTS = [0, 1, 5, -1, 60, 2147483647, 2147483648, 1.5, "3", None, True]
ACCEPTED = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "application/json;as=Table;v=v1;g=meta.k8s.io"]


def scales(dice, round, world):
    scale = {"specReplicasPath": dice.pick(".spec.n", ".spec.a.b", ".spec.m.x-y"), "statusReplicasPath": dice.pick(".status.n", ".status.a.b")}
    selector = dice.pick(None, ".status.sel", ".spec.sel", ".status.s.t")
    if selector:
        scale["labelSelectorPath"] = selector
    subresources = {"scale": scale, **({"status": {}} if dice.chance(.7) else {})}
    custom = Custom("scales", round, "weighs", "Weigh", [version(dice.pick(OPEN, CLOSED), subresources=subresources)])
    path, cases = custom.path(), Cases()
    for _ in range(40):
        name = dice.pick("a", "b", "nope") if dice.chance(.3) else "a"
        how = dice.share({"get": 20, "merge": 20, "json patch": 10, "put": 15, "apply": 10, "object": 15, "apply object": 5, "whole": 5})
        one = f"{path}/{name}/scale"
        if how == "get":
            cases.ask(how, f"GET {one}", accept=dice.of(ACCEPTED) if dice.chance(.4) else None)
        elif how == "merge":
            patch = dice.pick({"spec": {"replicas": dice.of(COUNTS)}}, {"spec": None}, {"metadata": {"resourceVersion": "1"}},
                              {"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 3}}, {"status": {"replicas": 7}}, {"nope": 1}, {"kind": "X"},
                              {"spec": {"replicas": 2, "x": 1}})
            cases.ask(how, f"PATCH {one}?fieldManager=m{dice.pick('', '&fieldValidation=Strict')}", patch, dice.pick(MERGE, MERGE, MERGE, MERGE, STRATEGIC))
        elif how == "json patch":
            place = dice.pick("/spec/replicas", "/spec", "/status/replicas", "/metadata/name")
            cases.ask(how, f"PATCH {one}", [{"op": dice.pick("replace", "add", "remove", "test"), "path": place, "value": dice.of(COUNTS)}], JSON_PATCH)
        elif how == "put":
            cases.ask(how, f"PUT {one}", _scale(dice, custom, name))
        elif how == "apply":
            applied = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": dice.pick({}, {"name": name}), "spec": {"replicas": dice.of(COUNTS)}}
            cases.ask(how, f"PATCH {one}?fieldManager={dice.of('ab')}{dice.pick('', '&force=true')}", applied, APPLY)
        elif how == "object":
            patch = _patch(dice)
            sub = "/status" if "status" in patch and dice.chance(.7) else ""
            cases.ask(how, f"PATCH {path}/a{sub}?fieldManager=o", patch, MERGE)
        elif how == "apply object":
            applied = {"apiVersion": f"{custom.group}/v1", "kind": "Weigh", "spec": {"n": dice.pick(1, 2), "a": {"b": dice.pick(1, 2)}}}
            cases.ask(how, f"PATCH {path}/a?fieldManager={dice.of('ab')}&force=true", applied, APPLY)
        else:
            cases.ask(how, f"GET {path}/a")
    return custom.held(cases, objects=[custom.object("a", {"n": 1, "a": {"b": 1}, "m": {"x-y": 1}}), custom.object("b", {})], unordered=True)


def _scale(dice, custom, name):
    metadata = dice.pick({"name": name}, {"name": name, "namespace": "default"}, {"name": "x"}, {}, {"name": name, "uid": "x"},
                         {"name": name, "resourceVersion": "1"}, {"name": name, "namespace": "other"})
    versions = ["autoscaling/v1"] * 4 + ["autoscaling/v2", "v1", f"{custom.group}/v1"]
    return {"apiVersion": dice.of(versions), "kind": dice.of(["Scale"] * 5 + ["Weigh"]), "metadata": metadata,
            "spec": dice.pick({"replicas": dice.of(COUNTS)}, {}, {"replicas": 3, "x": 1})}


def _patch(dice):
    """Of the object, where its scale is read."""
    count = dice.of(COUNTS)
    return dice.pick({"spec": {"n": count, "a": {"b": dice.of(COUNTS)}, "m": {"x-y": count}}}, {"spec": {"n": None}}, {"spec": {"a": None}},
                     {"spec": {"a": "x"}}, {"status": {"n": count, "a": {"b": dice.of(COUNTS)}, "sel": dice.pick("a=b", 1, "!!")}},
                     {"spec": {"sel": "x=y"}})
