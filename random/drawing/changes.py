"""Definitions of custom kinds: a whole one with something changed anywhere in it (`definitions`), and one that is updated (`updates`)."""
import copy

from drawing import expressions, odd, schemas, trees
from drawing.definitions import DEFINITIONS, Custom, definition, version
from session import APPLY, MERGE, STRATEGIC, Cases, Session

VALIDATION = ["", "", "&fieldValidation=Strict", "&fieldValidation=Ignore", "&fieldValidation=Warn"]
RULE = {"rule": "self.n > 0", "message": "m", "reason": "FieldValueInvalid", "fieldPath": ".n", "messageExpression": "'a'", "optionalOldSelf": False}
SPEC = {
    "type": "object", "x-kubernetes-validations": [RULE], "required": ["n"], "properties": {
        "n": {"type": "integer", "format": "int32", "minimum": 0, "maximum": 10, "default": 1},
        "s": {"type": "string", "maxLength": 5, "minLength": 1, "pattern": "^a", "enum": ["a", "ab"]},
        "l": {"type": "array", "maxItems": 3, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
              "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}}}},
        "m": {"type": "object", "additionalProperties": {"type": "string"}, "x-kubernetes-map-type": "granular"},
        "io": {"x-kubernetes-int-or-string": True}, "any": {"x-kubernetes-preserve-unknown-fields": True},
        "o": {"type": "object", "nullable": True, "oneOf": [{"required": ["a"]}], "properties": {"a": {"type": "boolean"}}}}}
STATUS = {"type": "object", "properties": {"n": {"type": "integer"}, "s": {"type": "string"}}}
FIRST = version(
    {"type": "object", "description": "x", "required": ["spec"], "properties": {"spec": SPEC, "status": STATUS}}, deprecated=True, deprecationWarning="old",
    subresources={"status": {}, "scale": {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n", "labelSelectorPath": ".status.s"}},
    additionalPrinterColumns=[{"name": "A", "type": "string", "format": "byte", "description": "d", "priority": 1, "jsonPath": ".spec.s"}],
    selectableFields=[{"jsonPath": ".spec.s"}])
SECOND = version({"type": "object", "x-kubernetes-preserve-unknown-fields": True}, "v1beta1", storage=False)
CONVERSION = {"strategy": "Webhook", "webhook": {"clientConfig": {"service": {"namespace": "a", "name": "b", "path": "/c", "port": 443}},
                                                 "conversionReviewVersions": ["v1"]}}


def _with_everything():
    full = definition("bowls", "definitions.random.example.com", [FIRST, SECOND], "Bowl")
    full["metadata"].update(labels={"a": "b"}, annotations={"c": "d"})
    full["spec"]["names"].update(singular="bowl", listKind="BowlList", shortNames=["bo"], categories=["all"])
    full["spec"].update(conversion=CONVERSION, preserveUnknownFields=False)
    return full


def definitions(dice, round, world):
    cases, full = Cases(), _with_everything()
    for _ in range(80):
        kind, text = odd.body(dice, trees.mutated(dice, full))
        cases.ask("definition", f"POST {DEFINITIONS}?dryRun=All{dice.of(VALIDATION)}", text, kind)
    return Session("definitions", round, [], cases, independent=True)


NAMES = [{"kind": "Other"}, {"plural": "others"}, {"shortNames": ["sw"]}, {"singular": "x"}, {"listKind": "Bag"}, {"categories": ["all"]},
         {"kind": "SwanList"}]
CONVERSIONS = [{"strategy": "None"}, {"strategy": "Webhook"}, {"strategy": "x"},
               {"strategy": "Webhook", "webhook": {"clientConfig": {"url": "https://x"}, "conversionReviewVersions": ["v1"]}},
               {"strategy": "Webhook", "webhook": {"clientConfig": {"url": "https://x", "caBundle": "eA=="}, "conversionReviewVersions": ["v2"]}}]
STATUSES = [{"storedVersions": []}, {"storedVersions": ["v1", "v9"]}, {"conditions": []}, {"storedVersions": ["v1beta1"]}]
METADATA = [{"resourceVersion": "1"}, {"labels": {"a": "b"}}, {"finalizers": ["x/y"]}, {"annotations": {"a": "b"}}, {"name": "x.y"}, {"uid": "x"},
            {"generation": 5}]
OF_VERSION = [{"subresources": {"status": {}}}, {"selectableFields": [{"jsonPath": ".spec.a"}]}, {"deprecated": True}, {"deprecationWarning": "x"},
              {"additionalPrinterColumns": [{"name": "x", "type": "string", "jsonPath": ".spec.a"}]}]
SCHEMAS = [None, {}, {"openAPIV3Schema": None}, {"openAPIV3Schema": {}}]
# How many definitions are tried, of which nearly every one is taken.
TRIES = 80


def updates(dice, round, world):
    custom = _taken(dice, round, world)
    path, cases = custom.itself, Cases()
    for _ in range(30):
        changed = _changed(dice, custom.definition)
        sub, dry = dice.pick("", "", "", "/status"), dice.pick("?dryRun=All", "?dryRun=All", "?dryRun=All", "?fieldManager=u")
        how = dice.share({"put": 55, "merge": 25, "apply": 10, "strategic": 10})
        parts = {part: changed[part] for part in ("spec", "status", "metadata") if part in changed}
        if how == "put":
            cases.ask(how, f"PUT {path}{sub}{dry}", changed)
        elif how == "merge":
            cases.ask(how, f"PATCH {path}{sub}{dry}", parts, MERGE)
        elif how == "apply":
            cases.ask(how, f"PATCH {path}{sub}?dryRun=All&fieldManager=a&force=true", changed, APPLY)
        else:
            cases.ask(how, f"PATCH {path}{dry}", {"spec": parts["spec"]}, STRATEGIC)
        if dice.chance(.15):
            cases.ask("get", f"GET {path}")
    session = custom.held(cases)
    session.cleanup.insert(0, f"PATCH {path}")
    return session


def _taken(dice, round, world):
    for _ in range(TRIES):
        versions = [version(_schema(dice)), version(_schema(dice), "v1beta1", storage=False)]
        custom = Custom("updates", round, "swans", "Swan", versions)
        if world.accepts(custom.definition):
            return custom
    raise RuntimeError(f"none of {TRIES} definitions is taken")


def _schema(dice, odds=.02):
    return schemas.root(dice, ["spec"], 2, odds)


def _changed(dice, base):
    tree = copy.deepcopy(base)
    spec = tree["spec"]
    versions = spec["versions"]
    one = dice.of(versions)
    schema = versions[0]["schema"]["openAPIV3Schema"]
    changes = {
        "scope": lambda: spec.update(scope=dice.pick("Cluster", "x")),
        "group": lambda: spec.update(group="other.example.com"),
        "names": lambda: spec["names"].update(dice.of(NAMES)),
        "no version": lambda: versions.remove(one),
        "storage": lambda: [each.update(storage=not each["storage"]) for each in versions],
        "not served": lambda: versions[0].update(served=False),
        "new version": lambda: versions.append(version(_schema(dice, .2), dice.pick("v2", "v1", "V3", "v1alpha1"), storage=dice.chance(.2))),
        "schema": lambda: one["schema"].update(openAPIV3Schema=_schema(dice, .25)),
        "conversion": lambda: spec.update(conversion=dice.of(CONVERSIONS)),
        "pruning": lambda: spec.update(preserveUnknownFields=dice.pick(True, False)),
        "status": lambda: tree.update(status=dice.of(STATUSES)),
        "metadata": lambda: tree["metadata"].update(dice.of(METADATA)),
        "no schema": lambda: versions[0].update(schema=dice.of(SCHEMAS)),
        "rule": lambda: schema["properties"]["spec"].update({"x-kubernetes-validations": [{"rule": expressions.expression(dice, "bool", 1, .1)}]}),
        "of a version": lambda: versions[0].update(copy.deepcopy(dice.of(OF_VERSION))),
        "odd spec": lambda: schema["properties"].update(spec=schemas.odder(dice, schema["properties"]["spec"])),
        "odd root": lambda: versions[0]["schema"].update(openAPIV3Schema=schemas.odder(dice, schema)),
        "none": lambda: None}
    changes[dice.share({name: 5 if name == "schema" else 1 for name in changes})]()
    return tree
