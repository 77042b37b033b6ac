"""Regular expressions in schemas, most of them right (`patterns`)."""
from drawing.definitions import DEFINITIONS, definition, version
from session import Cases, Session

RIGHT = ["a", "b", "c", ".", "\\d", "\\w", "\\s", "\\D", "\\W", "\\b", "\\B", "[a-c]", "[^a]", "[[:alpha:]]", "[[:^digit:]]", "\\pL", "\\p{Greek}", "\\PN",
         "\\x41", "\\x{263a}", "\\Q.+\\E", "\\."]
ATOMS = RIGHT + ["\\-", "é", "^", "$", "\\A", "\\z", "\\Z", "\\C", "[a-]", "[]a]", "[^]a]", "[\\d-z]", "[a-\\d]", "\\07", "\\1", "\\e", "\\a", "\\n",
                 "\\u0041", "[z-a]", "[", "(?=a)", "\\pX", "[[:foo:]]", "\\p{Foo}", "(?i)", "(?s)", "(?U)", "(?x)", "(?-i)", "(?im-s)", "\\h", "\\R",
                 "\\G", "{", "}", "{1}", "a{,2}", "]", ")", "|", "[\\Q]\\E]", "\\p{^Lu}", "\\_", "[&&a]", "[a&&b]", "[a--b]", "[[a]]", "#", "/", " "]
GROUPS = ["(%s)", "(?:%s)", "(?P<n>%s)", "(?<n>%s)"]
ODD_GROUPS = GROUPS + ["(?i:%s)", "(?P=n)%s", "(?P<1>%s)", "(?#%s)", "(?>%s)", "(?!%s)", "(?i-s:%s)", "(%s", "%s)"]
REPEATS = ["*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}", "{1,}"]
ODD_REPEATS = REPEATS + ["{0}", "{2,1}", "{1001}", "**", "+*", "{1000}{1000}", "{,3}", "{a}", "{2}{3}", "?+"]
IN_ONE = 5


def pattern(dice, depth):
    if depth == 0:
        return dice.of(RIGHT if dice.chance(.75) else ATOMS)
    how = dice.share({"after": 3, "or": 1, "group": 1, "repeat": 2, "plain": 2})
    if how == "after":
        return pattern(dice, depth - 1) + pattern(dice, depth - 1)
    if how == "or":
        return pattern(dice, depth - 1) + "|" + pattern(dice, depth - 1)
    if how == "group":
        return dice.of(GROUPS if dice.chance(.8) else ODD_GROUPS) % pattern(dice, depth - 1)
    if how == "repeat":
        return f"(?:{pattern(dice, depth - 1)})" + dice.of(REPEATS if dice.chance(.8) else ODD_REPEATS)
    return pattern(dice, depth - 1)


def patterns(dice, round, world):
    cases = Cases()
    for _ in range(40):
        fields = {f"p{number}": {"type": "string", "pattern": pattern(dice, dice.pick(1, 2, 2, 3))} for number in range(IN_ONE)}
        schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": fields}}}
        cases.ask("patterns", f"POST {DEFINITIONS}?dryRun=All", definition("pats", "patterns.random.example.com", [version(schema)], "Pat"))
    return Session("patterns", round, [], cases, independent=True)
