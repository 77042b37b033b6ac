"""Numbers at the ends of their types, however they are spelled, in fields of every numeric type (`numbers`)."""
from drawing.definitions import Custom, version
from session import APPLY, JSON, YAML, Cases

NUMBERS = ["0", "-0", "1", "-1", "1.0", "1.5", "1e0", "1e3", "1E3", "1e+3", "1.5e1", "100e-2", "9007199254740993", "9223372036854775807",
           "9223372036854775808", "-9223372036854775808", "-9223372036854775809", "18446744073709551615", "18446744073709551616", "1e18", "1e19", "1e20",
           "1e21", "1e-6", "1e-7", "0.1", "0.30000000000000004", "1e308", "1e309", "-1e309", "1e-400", "2147483647", "2147483648", "-2147483649",
           "3.4e38", "3.5e38", "123456789.123456789", "0.0", "-0.0", "0e5", "1.00", "5e-324", "12345678901234567890123"]
FIELDS = {
    "i": {"type": "integer", "x-kubernetes-validations": [{"rule": "self < 100", "messageExpression": "string(self)"}]},
    "i32": {"type": "integer", "format": "int32"}, "i64": {"type": "integer", "format": "int64"},
    "f": {"type": "number", "x-kubernetes-validations": [{"rule": "self < 100.0", "messageExpression": "string(self)"},
                                                         {"rule": "self < 100.0", "messageExpression": "'%s'.format([self])"}]},
    "fl": {"type": "number", "format": "float"}, "d": {"type": "number", "format": "double"},
    "io": {"x-kubernetes-int-or-string": True}, "any": {"x-kubernetes-preserve-unknown-fields": True},
    "mn": {"type": "number", "minimum": 0.5, "maximum": 100.5}, "mi": {"type": "integer", "minimum": -5, "maximum": 1e3, "exclusiveMaximum": True},
    "mm": {"type": "number", "multipleOf": 0.1}, "m3": {"type": "integer", "multipleOf": 3},
    "en": {"type": "number", "enum": [1, 1.5, 1e21]}, "ei": {"type": "integer", "enum": [1, 5, 9223372036854775807]},
    "set": {"type": "array", "maxItems": 4, "x-kubernetes-list-type": "set", "items": {"type": "number"}},
    "str": {"type": "string"}, "b": {"type": "boolean"}}


def numbers(dice, round, world):
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": FIELDS}}}
    custom = Custom("numbers", round, "nums", "Num", [version(schema)])
    cases = Cases()

    def spelled(field):
        return f"[{dice.of(NUMBERS)},{dice.of(NUMBERS)}]" if field == "set" else dice.of(NUMBERS)

    for _ in range(50):
        spec = ",".join(f'"{field}":{spelled(field)}' for field in dice.some(sorted(FIELDS), 1 + dice.below(6)))
        # As text: json.dumps would spell the numbers its way.
        body = f'{{"apiVersion":"{custom.group}/v1","kind":"Num","metadata":{{"name":"a"}},"spec":{{{spec}}}}}'
        accept = "application/yaml" if dice.chance(.2) else None
        if dice.chance(.8):
            cases.ask("create", f"POST {custom.path()}?dryRun=All", body, dice.pick(JSON, JSON, YAML), accept)
        else:
            cases.ask("apply", f"PATCH {custom.path()}/a?dryRun=All&fieldManager=a", body, APPLY, accept)
    return custom.held(cases, independent=True, unordered=True)
