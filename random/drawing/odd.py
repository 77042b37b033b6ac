"""Values and texts that are right nowhere in particular: of any type, at the ends of numbers, nearly a format."""
import json

KEYS = ["a", "b", "c", "aa", "x", "y", "name", "kind", "spec", "metadata", "apiVersion", "a-b", "a.b", "a/b", "$ref", "items", "namespace", "if", "in",
        "_x", "__y__", "1", "", "é", "A"]
NUMBERS = [0, 1, -1, 2, 3, 5, 10, 2147483647, 2147483648, 9223372036854775807, -9223372036854775808]
FRACTIONS = [0.5, 1.0, -1.5, 1e10, 1e21, 1e-7, 0.1, 3.0]
TEXTS = ["", "a", "b", "ab", "abc", "1", "1.5", "true", "null", "A", "é", "日本", "2020-01-01T00:00:00Z", "2020-01-01", "1h", "1.2.3.4", "::1", "1Gi",
         "a@b.c", "x y", "aaaaaaaaaaaaaaaaaaaa", "\n", "http://a/b?c=d"]
LETTERS = "0123456789abcdefxyzABZ.:-/+_ %#@,()[]<>\"'\\=&?!~*^$|{}T\té日"
# What stands once more, or at the wrong place, after a brace of JSON.
INTRUDERS = ['"a":1,"a":2,', '"spec":{},', '"nope":1,"nope":[],', '"":null,', '"kind":"X",']


def key(dice):
    return dice.of(KEYS)


def value(dice, depth=2):
    """Of any type, nested so deep at most."""
    kind = dice.share({"null": 1, "bool": 1, "number": 2, "fraction": 1, "text": 4} | ({"list": 2, "map": 2} if depth else {}))
    if kind == "list":
        return [value(dice, depth - 1) for _ in range(dice.below(4))]
    if kind == "map":
        return {key(dice): value(dice, depth - 1) for _ in range(dice.below(4))}
    return dice.of({"null": [None], "bool": [True, False], "number": NUMBERS, "fraction": FRACTIONS, "text": TEXTS}[kind])


def mutated(dice, text):
    """A text with up to three letters more, fewer or others."""
    for _ in range(dice.pick(0, 1, 1, 2, 3)):
        place = dice.up_to(len(text))
        how = dice.pick("more", "fewer", "other", "cut", "capitals")
        if how == "more":
            text = text[:place] + dice.of(LETTERS) + text[place:]
        elif how == "fewer":
            text = text[:place] + text[place + 1:]
        elif how == "other" and text:
            text = text[:place] + dice.of(LETTERS) + text[place + 1:]
        elif how == "cut":
            text = text[:place] + text[dice.up_to(len(text)):]
        else:
            text = text[:place] + text[place:].upper()
    return text


def doubled(dice, text):
    """JSON in which some object has a key twice, or a key that it should not have."""
    braces = [place for place, letter in enumerate(text) if letter == "{" and text[place + 1:place + 2] != "}"]
    if not braces:
        return text
    place = dice.of(braces) + 1
    return text[:place] + dice.of(INTRUDERS) + text[place:]


def body(dice, tree):
    """(content type, text): JSON, now and then with a key twice; or YAML, of which JSON is a part and block style another."""
    if dice.chance(.25):
        return "application/yaml", block_style(tree) + "\n"
    text = json.dumps(tree, ensure_ascii=dice.chance(.5))
    return "application/json", doubled(dice, text) if dice.chance(.1) else text


def block_style(tree, indent=0):
    """A map in YAML's block style. By hand: PyYAML's versions do not all write the same."""
    if not isinstance(tree, dict) or not tree:
        return json.dumps(tree)
    lines = []
    for name, child in tree.items():
        nested = isinstance(child, dict) and child
        lines.append(" " * indent + json.dumps(name) + ":" + ("\n" + block_style(child, indent + 2) if nested else " " + json.dumps(child)))
    return "\n".join(lines)
