"""Objects of custom kinds, through every verb: of a kind that was drawn (`objects`), and of one with every kind of field (`whole`)."""
from drawing import odd, schemas, trees
from drawing.definitions import Custom, version
from drawing.ropes import ROPE, WHOLE
from session import APPLY, JSON_PATCH, MERGE, Cases

VALIDATION = ["", "", "&fieldValidation=Strict", "&fieldValidation=Warn", "&fieldValidation=Ignore"]
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
METADATA_PATCHES = [
    {"labels": {"a": "b"}}, {"labels": None}, {"annotations": {"x": None}}, {"name": "other"}, {"finalizers": ["a/b"]}, {"labels": {"a": 1}},
    {"generation": 5}, {"resourceVersion": "1"}, {"uid": "x"}, None, {"deletionTimestamp": "2020-01-01T00:00:00Z"}, {"managedFields": []},
    {"ownerReferences": [{}]}]
FIELDS = ["spec", "status", "data"]
# How many schemas are tried, of which one in some is taken.
TRIES = 80


def objects(dice, round, world):
    """Of a schema that was drawn, and that the original takes."""
    custom, schema = _taken(dice, round, world)
    path, cases, made = custom.path(), Cases(), []

    def drawn(name, bad):
        tree = schemas.value(dice, schema, bad)
        tree = tree if isinstance(tree, dict) else {}
        return custom.object(name, **{field: tree[field] for field in FIELDS if field in tree})

    for _ in range(40):
        how = dice.share({"create": 45, "make": 10, "put": 10, "merge": 15, "json patch": 10, "apply": 7, "get": 3}) if made else "make"
        sub, dry, validation = dice.pick("", "", "", "/status"), dice.pick("", "&dryRun=All"), dice.of(VALIDATION)
        if how == "create":
            kind, text = odd.body(dice, drawn("new", dice.pick(0, .05, .15, .3)))
            cases.ask("create", f"POST {path}?dryRun=All{validation}", text, kind)
            continue
        if how == "make":
            made = [f"one{len(cases)}", drawn(f"one{len(cases)}", 0 if dice.chance(.7) else .05)]
            cases.ask("make", f"POST {path}?fieldManager=m{validation}", made[1])
            continue
        one = f"{path}/{made[0]}{sub}?fieldManager=p{dry}{validation}"
        if how == "put":
            cases.ask("put", f"PUT {path}/{made[0]}{sub}?dryRun=All{validation}", drawn(made[0], .05))
        elif how == "merge":
            cases.ask("merge", f"PATCH {one}", _merge_patch(dice, schema), MERGE)
        elif how == "json patch":
            cases.ask("json patch", f"PATCH {one}", trees.json_patch(dice, made[1]), JSON_PATCH)
        elif how == "apply":
            applied = {**drawn(made[0], .05), "metadata": dice.pick({}, {"name": made[0]}, {"labels": {"a": "b"}})}
            cases.ask("apply", f"PATCH {path}/{made[0]}{sub}?fieldManager={dice.of('ab')}{dice.pick('', '&force=true')}{dry}{validation}", applied, APPLY)
        else:
            cases.ask("get", f"GET {path}/{made[0]}", accept=dice.pick("application/json", TABLE, "application/yaml"))
    cases.ask("list", f"GET {path}")
    return custom.held(cases, freed=[f"one{number}" for number, case in enumerate(cases) if case.name.startswith("make")], unordered=True)


def _taken(dice, round, world):
    """A kind of a schema that the original takes, and the schema."""
    for _ in range(TRIES):
        schema = schemas.root(dice, FIELDS, odd=.01)
        custom = Custom("objects", round, "geeses", "Goose", [version(schema, subresources={"status": {}} if dice.chance(.7) else {})])
        if world.accepts(custom.definition):
            return custom, schema
    raise RuntimeError(f"none of {TRIES} schemas is taken")


def _merge_patch(dice, schema):
    fields = dice.some([*FIELDS, "metadata"], 1 + dice.below(2))
    return {field: dice.of(METADATA_PATCHES) if field == "metadata" else schemas.value(dice, schema["properties"].get(field), .2) for field in fields}


def whole(dice, round, world):
    """One object of a kind with every kind of field, changed anywhere."""
    custom = Custom("whole", round, "bells", "Bell", [version(ROPE, subresources={"status": {}})])
    base = {**custom.object("one"), **WHOLE, "metadata": {**WHOLE["metadata"], "name": "one"}}
    path, cases = custom.path(), Cases()
    for _ in range(60):
        how = dice.share({"create": 35, "put": 20, "merge": 15, "json patch": 15, "apply": 15})
        one = f"{path}/one{dice.pick('', '', '/status')}?dryRun=All{dice.of(VALIDATION[1:])}"
        if how == "create":
            new = {**base, "metadata": {**base["metadata"], "name": "new"}}
            cases.ask("create", f"POST {path}?dryRun=All{dice.of(VALIDATION[1:])}", trees.mutated(dice, new))
        elif how == "put":
            cases.ask("put", f"PUT {one}", trees.mutated(dice, base))
        elif how == "merge":
            cases.ask("merge", f"PATCH {one}", trees.mutated(dice, base), MERGE)
        elif how == "json patch":
            patch = trees.json_patch(dice, base)
            cases.ask("json patch", f"PATCH {one}", trees.mutated(dice, patch) if dice.chance(.3) else patch, JSON_PATCH)
        else:
            cases.ask("apply", f"PATCH {one}&fieldManager=a{dice.pick('', '&force=true')}", trees.mutated(dice, base), APPLY)
    return custom.held(cases, objects=[base], freed=["one"], independent=True, unordered=True)
