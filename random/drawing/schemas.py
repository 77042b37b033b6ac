"""Schemas of custom kinds, and values of them. ODD: how often a part of a schema has something wrong in it."""
import copy

from drawing import odd as odds

FORMATS = ["int32", "int64", "float", "double", "byte", "binary", "date", "date-time", "password", "uri", "email", "hostname", "ipv4", "ipv6", "cidr",
           "mac", "uuid", "uuid3", "uuid4", "uuid5", "isbn", "isbn10", "isbn13", "creditcard", "ssn", "hexcolor", "rgbcolor", "duration", "bsonobjectid",
           "datetime", "k8s-short-name", "k8s-long-name", "nope", "", "Date"]
RIGHT_PATTERNS = ["^a", "[a-z]+$", "^(a|b)*$", "(?i)A", "\\d+"]
PATTERNS = RIGHT_PATTERNS + ["[", "(?=a)", "a{2,3}", "\\p{L}", "^$", "(?P<n>a)", "a**", "[[:alpha:]]", "\\Q.\\E", "x{1001}", "\\1", "(?<n>a)"]
KEYS = ["a", "b", "c", "d", "e", "aa", "bb", "name", "kind", "a-b", "a.b", "a/b", "namespace", "if", "in", "_x", "__y__", "é", "A"]
# What is right by each format.
OF_FORMAT = {
    "date": "2020-01-02", "date-time": "2020-01-02T03:04:05Z", "byte": "YWI=", "uri": "http://a/b", "email": "a@b.c", "hostname": "a.b", "ipv4": "1.2.3.4",
    "ipv6": "::1", "cidr": "10.0.0.0/8", "mac": "01:23:45:67:89:ab", "uuid": "123e4567-e89b-12d3-a456-426614174000",
    "uuid3": "123e4567-e89b-32d3-a456-426614174000", "uuid4": "123e4567-e89b-42d3-a456-426614174000", "uuid5": "123e4567-e89b-52d3-a456-426614174000",
    "isbn": "978-3-16-148410-0", "isbn10": "0-306-40615-2", "isbn13": "9783161484100", "creditcard": "4111111111111111", "ssn": "123-45-6789",
    "hexcolor": "#fff", "rgbcolor": "rgb(1,2,3)", "duration": "1h", "bsonobjectid": "507f1f77bcf86cd799439011", "datetime": "2020-01-02T03:04:05Z",
    "k8s-short-name": "a-b", "k8s-long-name": "a.b"}


def root(dice, fields, depth=3, odd=.12):
    """The schema of a kind with these fields at its top."""
    return _decorated(dice, {"type": "object", **_object(dice, depth, odd, fields)}, depth, odd, is_root=True)


def schema(dice, depth, odd):
    simple = ["string", "integer", "number", "boolean", "int-or-string"]
    nested = ["object", "object", "array", "array", "preserve", "embedded", "map"]
    kind = dice.of(simple + nested if depth > 0 else simple)
    drawn = {"string": _string, "integer": _number, "number": _number, "array": _array, "int-or-string": _int_or_string, "preserve": _preserve,
             "embedded": _embedded, "map": _map, "object": _object}.get(kind, lambda *_: {})(dice, depth, odd)
    typed = {"type": "object" if kind in ("map", "embedded") else kind} if kind not in ("int-or-string", "preserve") else {}
    return _decorated(dice, {**typed, **drawn}, depth, odd)


def _string(dice, _, odd):
    part = {}
    if dice.chance(.3):
        part["format"] = dice.of(FORMATS)
    if dice.chance(.25):
        part["maxLength"] = dice.below(8)
    if dice.chance(.15):
        part["minLength"] = dice.below(4)
    if dice.chance(.2):
        part["pattern"] = dice.of(PATTERNS if dice.chance(odd) else RIGHT_PATTERNS)
    if dice.chance(.15):
        part["enum"] = dice.some(["a", "b", "ab", "", "1", "abc"], 1 + dice.below(3))
    return part


def _number(dice, _, __):
    options = {"format": (.2, FORMATS[:4]), "minimum": (.25, [0, 1, -5, 0.5, 2]), "maximum": (.25, [3, 10, 100, 2.5, 1e3]),
               "exclusiveMinimum": (.1, [True, False]), "exclusiveMaximum": (.1, [True]), "multipleOf": (.1, [2, 3, 0.5, 0.1, 1]),
               "enum": (.1, [[1, 2], [1.5, 10], [3, 1]])}
    return {name: dice.of(values) for name, (probability, values) in options.items() if dice.chance(probability)}


def _object(dice, depth, odd, fields=None):
    names = fields or [dice.of(KEYS) for _ in range(1 + dice.below(4))]
    part = {"properties": {name: schema(dice, depth - 1, odd) for name in names}}
    if dice.chance(.3):
        part["required"] = [dice.of(sorted(part["properties"]))] + (["zz"] if dice.chance(.1) else [])
    options = {"x-kubernetes-preserve-unknown-fields": (.1, [True]), "x-kubernetes-map-type": (.1, ["atomic", "granular"]),
               "maxProperties": (.1, [0, 1, 2, 3]), "minProperties": (.05, [0, 1, 2])}
    return part | {name: dice.of(values) for name, (probability, values) in options.items() if dice.chance(probability)}


def _map(dice, depth, odd):
    part = {"additionalProperties": schema(dice, depth - 1, odd)}
    if dice.chance(.2):
        part["maxProperties"] = dice.below(4)
    if dice.chance(.1):
        part["x-kubernetes-map-type"] = dice.pick("atomic", "granular")
    return part


def _array(dice, depth, odd):
    kind = dice.share({"map": 30, "set": 15, "list": 55})
    if kind == "map":
        part = _keyed(dice, depth, odd)
    elif kind == "set":
        part = {"items": schema(dice, 0, odd), "x-kubernetes-list-type": "set"}
    else:
        part = {"items": schema(dice, depth - 1, odd)}
        if dice.chance(.2):
            part["x-kubernetes-list-type"] = dice.pick("atomic", "set")
    options = {"maxItems": (.2, [0, 1, 2, 3]), "minItems": (.1, [0, 1, 2]), "uniqueItems": (.03, [True, False])}
    return part | {name: dice.of(values) for name, (probability, values) in options.items() if dice.chance(probability)}


def _keyed(dice, depth, odd):
    keys = dice.some(["k", "p", "q"], 1 + dice.below(2))
    fields = {key: {"type": dice.pick("string", "string", "integer", "boolean")} for key in keys}
    for field in fields.values():
        if dice.chance(.3):
            field["default"] = {"string": "TCP", "integer": 1, "boolean": True}[field["type"]]
    required = [key for key in keys if "default" not in fields[key]]
    items = {"type": "object", "properties": {**fields, "v": schema(dice, depth - 2, odd)}, **({"required": required} if required else {})}
    return {"items": items, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys}


def _int_or_string(dice, _, __):
    options = {"anyOf": (.2, [[{"type": "integer"}, {"type": "string"}]]), "pattern": (.1, ["^[0-9]+%?$"]), "maximum": (.1, [10])}
    drawn = {name: dice.of(values) for name, (probability, values) in options.items() if dice.chance(probability)}
    return {"x-kubernetes-int-or-string": True, **copy.deepcopy(drawn)}


def _preserve(dice, _, __):
    return {"x-kubernetes-preserve-unknown-fields": True, **({"type": "object"} if dice.chance(.4) else {})}


def _embedded(dice, depth, odd):
    content = {"x-kubernetes-preserve-unknown-fields": True} if dice.chance(.6) else {"properties": {"spec": schema(dice, depth - 1, odd)}}
    return {"x-kubernetes-embedded-resource": True, **content}


def _decorated(dice, part, depth, odd, is_root=False):
    """With what any schema may have besides."""
    options = {"nullable": (.12, [True]), "description": (.06, ["text", "*b*", "é"]), "title": (.04, ["T"]), "externalDocs": (.03, [{"url": "http://x"}])}
    part = part | {name: dice.of(values) for name, (probability, values) in options.items() if dice.chance(probability)}
    if dice.chance(.03):
        part["example"] = odds.value(dice, 1)
    if dice.chance(.1) and depth < 3:
        keyword = dice.pick("oneOf", "anyOf", "allOf", "not")
        part[keyword] = logical(dice, part, odd) if keyword == "not" else [logical(dice, part, odd) for _ in range(1 + dice.below(2))]
    if dice.chance(.18) and not is_root:
        part["default"] = value(dice, part, .15)
    return odder(dice, part) if dice.chance(odd) else part


LOGICAL = [{"minimum": 1}, {"pattern": "^a"}, {"maxLength": 3}, {"enum": ["a", 1]}, {"minItems": 1}, {"maxProperties": 2}, {"multipleOf": 2},
           {"format": "ipv4"}, {"not": {"enum": [1]}}, {"allOf": [{"minimum": 0}]}, {"items": {"minLength": 1}}, {"additionalProperties": {"maxLength": 2}}]
# What a schema below `allOf` and its like must not have.
ILLOGICAL = [{"type": "object"}, {"default": 1}, {"nullable": True}, {"description": "d"}, {"title": "t"}, {"x-kubernetes-preserve-unknown-fields": True},
             {"x-kubernetes-int-or-string": True}, {"x-kubernetes-embedded-resource": True}, {"additionalProperties": False},
             {"properties": {"zz": {"minimum": 1}}}, {"items": {"maxLength": 1}}, {"x-kubernetes-list-type": "set"},
             {"x-kubernetes-validations": [{"rule": "true"}]}]


def logical(dice, part, odd):
    """A schema that stands below `allOf`, `anyOf`, `oneOf` or `not` of PART."""
    if part.get("properties") and dice.chance(.7):
        name = dice.of(sorted(part["properties"]))
        drawn = dice.pick({"required": [name]}, {"properties": {name: {"minLength": 1}}}, {"properties": {name: {"enum": ["a", 1]}}},
                          {"required": [name, "zz"]}, {"properties": {name: {"not": {"pattern": "^b"}}}})
    else:
        drawn = dice.of(LOGICAL)
    return copy.deepcopy(drawn | (dice.of(ILLOGICAL) if dice.chance(odd * 2) else {}))


ODD = {
    "type": ["", "null", "any", "String", "int", "list"], "x-kubernetes-int-or-string": [True, False], "x-kubernetes-preserve-unknown-fields": [True, False],
    "x-kubernetes-embedded-resource": [True, False], "x-kubernetes-list-type": ["map", "set", "atomic", "nope", ""],
    "x-kubernetes-list-map-keys": [["a"], [], ["a", "a"], ["zz"], [""]], "x-kubernetes-map-type": ["atomic", "granular", "set", ""],
    "additionalProperties": [True, False, {"type": "string"}, {}], "items": [{"type": "string"}, {}, [{"type": "string"}]],
    "properties": [{}, {"a": {"type": "string"}}, {"": {}}, {"a": {}}], "required": [[], ["a", "a"], ["zz"], [""]], "uniqueItems": [True],
    "$ref": ["#/x"], "id": ["x"], "definitions": [{"a": {"type": "string"}}], "dependencies": [{"a": ["b"]}],
    "patternProperties": [{"a": {"type": "string"}}], "additionalItems": [True, {"type": "string"}], "minLength": [-1], "maxLength": [-1, 1.5, "1"],
    "minItems": [5], "minimum": ["1", 1e300, None], "multipleOf": [0, -1], "nullable": [True, "true"], "format": FORMATS, "pattern": PATTERNS,
    "nope": [1], "$schema": ["x"], "anyOf": [[{"type": "integer"}, {"type": "string"}]]}


def odder(dice, part):
    """With something more in it that is, mostly, wrong."""
    name = dice.of(list(ODD) + ["default", "enum", "allOf", "not", "no type"])
    if name == "no type":
        return {key: child for key, child in part.items() if key != "type"}
    drawn = {"default": lambda: odds.value(dice, 1), "enum": lambda: [odds.value(dice, 1) for _ in range(dice.below(3))],
             "allOf": lambda: [logical(dice, part, .5)], "not": lambda: logical(dice, part, .5)}.get(name, lambda: dice.of(ODD[name]))()
    return {**part, name: copy.deepcopy(drawn)}


def value(dice, part, bad=.1):
    """A value of a schema. BAD: how often a part of it is anything."""
    if not isinstance(part, dict) or dice.chance(bad):
        return odds.value(dice, 2)
    if part.get("nullable") and dice.chance(.2):
        return None
    if isinstance(part.get("enum"), list) and part["enum"] and dice.chance(.8):
        return dice.of(part["enum"])
    if part.get("x-kubernetes-int-or-string"):
        return dice.pick(1, 5, 20, "10%", "a", "7")
    kind = part.get("type")
    if kind == "string":
        right = OF_FORMAT.get(part.get("format"))
        return right if right and dice.chance(.7) else dice.pick("a", "ab", "b", "abc", "aaaaaaaaa", "", "1")
    if kind in ("integer", "number", "boolean"):
        return dice.of({"integer": [0, 1, 2, 3, 5, 7, 50, -1], "number": [0, 1, 1.5, 2, 0.3, 2.25, -1, 30], "boolean": [True, False]}[kind])
    if kind == "array":
        return [value(dice, part.get("items"), bad) for _ in range(dice.below(3))]
    if kind == "object":
        return _object_value(dice, part, bad)
    return odds.value(dice, 2)


EMBEDDED_METADATA = [{}, {"name": "a"}, {"name": "A b", "labels": {"a": "b"}}, {"nope": 1, "labels": {"a b": "c"}}, {"finalizers": ["x"]},
                     {"generateName": "x-", "creationTimestamp": None, "ownerReferences": [{"apiVersion": "v1", "kind": "P", "name": "n", "uid": "u"}]}]


def _object_value(dice, part, bad):
    drawn = {}
    if part.get("x-kubernetes-embedded-resource"):
        drawn = {"apiVersion": dice.pick("v1", "apps/v1", "a/b/c", ""), "kind": dice.pick("Pod", "X y", ""),
                 "metadata": copy.deepcopy(dice.of(EMBEDDED_METADATA))}
        if dice.chance(.3):
            del drawn[dice.of(sorted(drawn))]
    for name, child in (part.get("properties") or {}).items():
        if name in (part.get("required") or []) and dice.chance(.9) or dice.chance(.6):
            drawn[name] = value(dice, child, bad)
    if isinstance(part.get("additionalProperties"), dict):
        for _ in range(dice.below(3)):
            drawn[dice.of(KEYS)] = value(dice, part["additionalProperties"], bad)
    if dice.chance(bad + .05) or part.get("x-kubernetes-preserve-unknown-fields") and dice.chance(.5):
        drawn[odds.key(dice)] = odds.value(dice, 2)
    return drawn
