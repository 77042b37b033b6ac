"""What the two servers answered otherwise, by classes of what is alike, the frequent ones first.

A run's folder has sessions.jsonl, original.jsonl, again.jsonl (the original asked twice: what differs by itself is left out)
and ours.jsonl, which belong together line by line.
"""
import collections
import dataclasses
import difflib
import json
import os
import re

import normal
import session
from drawing import generators

# Of the lines that tell a difference, how many make its class.
LINES_OF_CLASS = 2
# How much of each is told, and how much of what two have in common.
WIDTH, HEAD = 180, 50
# What two may say of a place in one line.
SHORT = 120
EXAMPLES = 4


@dataclasses.dataclass
class Pair:
    """A case and its answers, normalised."""
    identity: str
    case: session.Case
    # Of the session, for whole sessions that belong together.
    name: str
    original: dict
    ours: dict
    # `same`, `order` (the errors are the same, in another order), `differs`; or why it is not compared: `unsteady`, `unanswered`.
    verdict: str


def pairs(folder):
    """All cases of a run."""
    sessions = session.read(os.path.join(folder, "sessions.jsonl"))
    answers = [_lines(os.path.join(folder, f"{name}.jsonl")) for name in ("original", "again", "ours")]
    for one, *told in zip(sessions, *answers, strict=True):
        for number, (case, *answered) in enumerate(zip(one.cases, *told, strict=True)):
            original, again, ours = (normal.answer(answer, one.unordered) for answer in answered)
            yield Pair(one.identity(number), case, one.name, original, ours, verdict(original, again, ours))


def _lines(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def verdict(original, again, ours):
    if "status" not in original:
        return "unanswered"
    if original != again:
        return "unsteady"
    if original == ours:
        return "same"
    return "order" if "status" in ours and normal.in_order(original) == normal.in_order(ours) else "differs"


def differences(original, ours):
    """In lines: `-` what only the original says, `+` what only we say, `~` a place where both say little."""
    if "status" not in ours:
        return [f"+ {ours.get('error') or ours.get('unprepared')}"]
    lines = []
    if original["status"] != ours["status"]:
        lines.append(f"status {original['status']} => {ours['status']}")
    lines += _of_bodies(original, ours)
    for part in ("warnings", "headers"):
        lines += [f"- {part} {said}" for said in original[part] if said not in ours[part]]
        lines += [f"+ {part} {said}" for said in ours[part] if said not in original[part]]
    if original["type"] != ours["type"]:
        lines.append(f"~ type: {original['type']} => {ours['type']}")
    return lines or ["something that these lines do not tell"]


def _of_bodies(original, ours):
    theirs, own = normal.causes_of(original["body"]), normal.causes_of(ours["body"])
    if theirs and own:
        lines = [f"- {_said(cause)}" for cause in _more(theirs, own)] + [f"+ {_said(cause)}" for cause in _more(own, theirs)]
        if lines:
            return lines
        if theirs != own:
            return [f"order {' '.join(cause.get('field') or '' for cause in theirs)} => {' '.join(cause.get('field') or '' for cause in own)}"]
    if _is_status(original["body"]) != _is_status(ours["body"]) or original["status"] != ours["status"]:
        return [f"- {_said(original['body'])}", f"+ {_said(ours['body'])}"]
    return [line for place in _places(original["body"], ours["body"]) for line in _of_a_place(*place)]


def _more(some, others):
    """Those of some that others have not, or not as often."""
    left = list(others)
    return [one for one in some if one not in left or left.remove(one)]


def _of_a_place(place, one, other):
    if isinstance(one, str) and isinstance(other, str) and "\n" in one:
        return [line for line in difflib.ndiff(one.splitlines(), other.splitlines()) if line[0] in "-+"]
    one, other = _short(one), _short(other)
    if len(one) + len(other) < SHORT:
        return [f"~ {place}: {one} => {other}"]
    return [f"- {place}: {one}", f"+ {place}: {other}"]


def _is_status(body):
    return isinstance(body, dict) and body.get("kind") == "Status"


def _said(told):
    """A cause or a refusal in words, another body as it is."""
    if isinstance(told, dict) and "field" in told:
        return f"{told['field']}: {told.get('message')} ({told.get('reason')})"
    return told.get("message") or _short(told) if _is_status(told) else _short(told)


def _short(value):
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _places(one, other, at=""):
    """The innermost places that differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(set(one) | set(other)):
            if key not in one or key not in other:
                yield f"{at}/{key}", one.get(key, "(nothing)"), other.get(key, "(nothing)")
            else:
                yield from _places(one[key], other[key], f"{at}/{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (first, second) in enumerate(zip(one, other)):
            yield from _places(first, second, f"{at}/{number}")
    elif one != other or type(one) is not type(other):
        yield at, one, other


def class_of(pair):
    """What is alike of differences: where, and the first lines without numbers and values."""
    lines = [re.sub(r"\[[\w./-]*\]|/\d+", "[]", line) for line in differences(pair.original, pair.ours)[:LINES_OF_CLASS]]
    lines = [re.sub(r"(Invalid|Unsupported|Duplicate) value: .*?: (?=[a-z`])", r"\1: ", line) for line in lines]
    kind = f" {pair.case.name.split(' ')[0]}" if pair.name in generators.BUILT_IN else ""
    return pair.name + kind, tuple(line[:WIDTH] for line in lines)


def told_shortly(pair):
    """The first lines of a difference; two that say nearly the same, from a little before where they part."""
    lines = [line.replace("\n", "⏎") for line in differences(pair.original, pair.ours)[:LINES_OF_CLASS]]
    if len(lines) == 2 and lines[0][:2] == "- " and lines[1][:2] == "+ ":
        alike = len(os.path.commonprefix([line[2:] for line in lines]))
        if alike > 2 * HEAD:
            lines = [f"{line[:HEAD]} … {line[2 + alike - HEAD:]}" for line in lines]
    return [line[:WIDTH] for line in lines]


def report(all_pairs, seed):
    """Of a run, in lines."""
    verdicts = collections.Counter(pair.verdict for pair in all_pairs)
    classes = collections.defaultdict(list)
    of_names = collections.defaultdict(collections.Counter)
    for pair in all_pairs:
        of_names[pair.name][pair.verdict] += 1
        if pair.verdict in ("differs", "order"):
            classes[class_of(pair)].append(pair)
    for (what, _), alike in sorted(classes.items(), key=lambda entry: -len(entry[1])):
        yield f"{len(alike):5}  {what}  {' '.join(f'{seed}:{pair.identity}' for pair in alike[:EXAMPLES])}"
        yield from ("         " + line for line in told_shortly(alike[0]))
    yield ""
    for name, counted in of_names.items():
        yield f"{name:12} {_rate(counted)}"
    yield f"{'all':12} {_rate(verdicts)}"


def _rate(counted):
    compared = counted["same"] + counted["order"] + counted["differs"]
    alike = 100 * counted["same"] / compared if compared else 100
    return (f"{compared:6} compared, {counted['differs']} differ, {counted['order']} in their order alone: {alike:.2f} % alike"
            f" ({counted['unsteady']} left out as unsteady, {counted['unanswered']} as the original gives no answer)")
