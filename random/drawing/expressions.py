"""CEL: expressions by type, from the grammar in `expressions.txt`. As rules of a definition, some of them garbled (`rules`), and as
rules that objects are held against (`evaluated`)."""
import copy
import functools
import os
import re

from drawing.definitions import DEFINITIONS, Custom, definition, version
from session import Cases, Session

# Where a template has an expression of a type: `$string`, `$int|double`, `$bool[@:string,i:int]`.
HOLE = re.compile(r"\$(\w+(?:\|[a-z]\w*)*)(?:\[([^\[\]$]*:[^\[\]$]*)\])?")
WORDS = re.compile(r"\{([^{}]*\|[^{}]*)\}")
VARIABLES = "xyzve"


def _limited(**more):
    return {"type": "string", "maxLength": 5, **more}


# The object that rules are about. What has no limit is too dear for some rules, which is told of them.
SELF = {
    "s": _limited(maxLength=20), "i": {"type": "integer"}, "f": {"type": "number"}, "b": {"type": "boolean"},
    "l": {"type": "array", "maxItems": 5, "items": _limited(maxLength=10)}, "nums": {"type": "array", "maxItems": 5, "items": {"type": "integer"}},
    "objs": {"type": "array", "maxItems": 5, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
             "items": {"type": "object", "required": ["k"], "properties": {"k": _limited(), "v": {"type": "integer"}}}},
    "set": {"type": "array", "maxItems": 5, "x-kubernetes-list-type": "set", "items": _limited()},
    "m": {"type": "object", "maxProperties": 5, "additionalProperties": _limited()},
    "mi": {"type": "object", "maxProperties": 5, "additionalProperties": {"type": "integer"}},
    "t": {"type": "string", "format": "date-time"}, "d": {"type": "string", "format": "date"}, "dur": {"type": "string", "format": "duration"},
    "by": _limited(format="byte", maxLength=10), "n": _limited(nullable=True), "io": {"x-kubernetes-int-or-string": True},
    "e": {"type": "string", "enum": ["a", "bb"]}, "namespace": _limited(), "a-b": _limited(), "x.y": _limited(),
    "o": {"type": "object", "properties": {"p": _limited(), "q": {"type": "object", "properties": {"r": {"type": "integer"}}}}},
    "big": {"type": "array", "items": {"type": "string"}}, "bigs": {"type": "string"},
    "emb": {"type": "object", "x-kubernetes-embedded-resource": True, "x-kubernetes-preserve-unknown-fields": True}}
# What an object has in these fields.
VALUES = {
    "s": ["", "a", "abc", "a,b", "10%", "é", "2020-01-01T00:00:00Z", "1Gi", "1.2.3.4"], "i": [0, 1, -1, 5, 9223372036854775807],
    "f": [0, 1, 1.5, -2.25, 1e10], "b": [True, False], "l": [[], ["a"], ["a", "b"], ["b", "a", "b"]], "nums": [[], [1], [3, 1, 2]],
    "objs": [[], [{"k": "a", "v": 1}], [{"k": "a"}, {"k": "b", "v": -1}]], "set": [[], ["a", "b"]], "m": [{}, {"a": "b"}, {"a": "x", "b": "y"}],
    "mi": [{}, {"a": 1}], "t": ["2020-01-01T00:00:00Z", "2024-02-29T12:30:45.123Z", "2020-01-01T00:00:00+05:30"], "d": ["2020-03-01"],
    "dur": ["1h", "1m30s", "0s", "2h45m10.5s"], "by": ["YWI="], "n": [None, "x"], "io": [1, "1", "5%"], "e": ["a"], "namespace": ["ns"], "a-b": ["x"],
    "x.y": ["z"], "o": [{}, {"p": "x"}, {"p": "y", "q": {"r": 3}}], "big": [["a", "b"]], "bigs": ["x"],
    "emb": [{"apiVersion": "v1", "kind": "P", "metadata": {"name": "n"}, "spec": {"a": 1}}]}
INTRUDERS = [*"()[]{}.,?:!=<>&|+-*/%\"'`@#$;\\ \n\t", "&&", "||", "in", "==", "..", "é", "\x00", "null", "has(", ".?", "[?", "0x", "1.", "1e", 'b"', "r'",
             "//c\n"]
ENDINGS = [")", " &&", " ==", ".", ".x(", "[", " in", " ?", " ? 1", " ? 1 :", "{", "}", " x", " 1", "//"]
SELVES = ["Self", "self.self", "oldSelf", "this", "self()", "`self`", ".self", "self.`a-b`", "self.if", "self.in"]
FIELD_PATHS = [".s", ".nope", ".o.p", ".m['a']", ".objs[0]", "s", ".m.a", ".a-b", "['a-b']", "", ".o", ".x.y", "['x.y']", ".objs"]
REASONS = ["FieldValueInvalid", "FieldValueRequired", "FieldValueDuplicate", "FieldValueForbidden", "X", ""]


@functools.cache
def grammar():
    """The templates of each section."""
    sections = {}
    with open(os.path.join(os.path.dirname(__file__), "expressions.txt")) as file:
        for line in file.read().splitlines():
            if re.fullmatch(r"\[\w+( leaf)?\]", line):
                templates = sections.setdefault(line[1:-1], [])
            elif line and not line.startswith("# ") and line != "#":
                templates.append(line)
    return sections


def expression(dice, type_, depth, wrong=.04, variables=()):
    """An expression of a type. WRONG: how often a part is of another. VARIABLES: (name, type) of those that are bound."""
    sections = grammar()
    if dice.chance(wrong):
        type_ = dice.of([name for name in sections if not name.endswith(" leaf")])
    bound = [name for name, its in variables if its == type_]
    if bound and dice.chance(.45):
        return dice.of(bound)
    if depth <= 0 or type_ not in sections or dice.chance(.15):
        return dice.of(sections[f"{type_} leaf"])
    template = dice.of(sections[type_])
    variable = dice.of(VARIABLES)
    template = WORDS.sub(lambda words: dice.of(words.group(1).split("|")), template)

    def filled(hole):
        named = [part.replace("@", variable).split(":") for part in (hole.group(2) or "").split(",") if part]
        return expression(dice, dice.of(hole.group(1).split("|")), depth - 1, wrong, (*variables, *map(tuple, named)))

    # The variable last: what fills the holes may have a sign of its own.
    return "".join(part if number % 2 else part.replace("@", variable) for number, part in enumerate(_split(template, filled)))


def _split(template, filled):
    """The template's own parts, and between them what fills its holes."""
    place = 0
    for hole in HOLE.finditer(template):
        yield template[place:hole.start()]
        yield filled(hole)
        place = hole.end()
    yield template[place:]


def garbled(dice, text):
    """An expression with something wrong in its text."""
    place = dice.up_to(len(text))
    how = dice.pick("fewer", "more", "begin", "end", "cut", "ending", "sign", "self", "words")
    if how == "fewer":
        return text[:place] + text[place + 1:]
    if how == "more":
        return text[:place] + dice.of(INTRUDERS) + text[place:]
    if how == "begin":
        return text[:place]
    if how == "end":
        return text[place:]
    if how == "cut":
        other = dice.up_to(len(text))
        return text[:min(place, other)] + text[max(place, other):]
    if how == "ending":
        return text + dice.of(ENDINGS)
    if how == "sign":
        return text.replace(dice.of("().,'"), dice.pick("", "((", "..", ",,", " "), 1)
    if how == "self":
        return text.replace("self", dice.of(SELVES), 1)
    return " ".join(dice.shuffled(text.split(" ")))


def _schema(rules_):
    spec = {"type": "object", "properties": copy.deepcopy(SELF), "x-kubernetes-validations": rules_}
    return {"type": "object", "properties": {"spec": spec}}


def rules(dice, round, world):
    """Two rules a definition, some of them garbled: what the type check and the estimate of the cost say."""
    cases = Cases()
    for _ in range(100):
        both = [_rule(dice), _rule(dice)]
        cases.ask("rule", f"POST {DEFINITIONS}?dryRun=All", definition("rules", "rules.random.example.com", [version(_schema(both))], "Rule"))
    return Session("rules", round, [], cases, independent=True)


def _rule(dice):
    text = expression(dice, "bool", dice.pick(1, 2, 2, 3), dice.pick(0, .03, .1))
    if dice.chance(.2):
        text = garbled(dice, text)
    if dice.chance(.1):
        text = text.replace("self", "oldSelf", 1)
    rule = {"rule": text}
    if dice.chance(.25):
        rule["messageExpression"] = expression(dice, "string", dice.pick(0, 1, 2), .05)
    options = {"message": (.1, ["m", "", "a\nb", " "]), "reason": (.1, REASONS), "fieldPath": (.1, FIELD_PATHS), "optionalOldSelf": (.07, [True, False])}
    return rule | {name: dice.of(values) for name, (probability, values) in options.items() if dice.chance(probability)}


SHOWN = ["string", "int", "double", "bool", "ts", "dur", "uint", "list_s", "list_i", "map_s", "bytes", "type"]
IN_ONE, OBJECTS = 8, 20


def evaluated(dice, round, world):
    """Eight rules that the original takes, half of which tell a value, and objects against them."""
    taken = []
    while len(taken) < IN_ONE:
        rule = {"rule": expression(dice, "bool", dice.pick(1, 2, 2, 3), .02)}
        if dice.chance(.5):
            shown = expression(dice, dice.of(SHOWN), dice.pick(1, 2, 2), .02)
            rule = {"rule": "false", "messageExpression": f"'{len(taken)} %s'.format([{shown}])"}
        if world.accepts(definition("rules", "rules.random.example.com", [version(_schema([rule]))], "Rule")):
            taken.append(rule)
    custom = Custom("evaluated", round, "rules", "Rule", [version(_schema(taken))])
    cases = Cases()
    for _ in range(OBJECTS):
        spec = {field: copy.deepcopy(dice.of(values)) for field, values in VALUES.items() if dice.chance(.75)}
        cases.ask("object", f"POST {custom.path()}?dryRun=All", custom.object("o", spec))
    return custom.held(cases, independent=True)
