"""Sessions as descriptions of the differential test (`crates/apiserver/tests/differential/description.rs`)."""
import json
import os
import re

import session

ABOUT = {
    "fields": "Objects of built-in kinds, right but for a few fields that were drawn by chance.",
    "patches": "Patches of parts of rich objects, drawn by chance.", "objects": "Objects of a kind that was drawn by chance.",
    "whole": "An object with every kind of field, changed anywhere.", "applied": "Owners that apply and update by chance.",
    "metadata": "Metadata drawn by chance.", "scales": "Scales that are read and written by chance.",
    "paths": "Paths, verbs and types of bodies drawn by chance.", "numbers": "Numbers at the ends of their types, however they are spelled.",
    "patterns": "Regular expressions drawn by chance.", "definitions": "A whole definition with something changed anywhere in it.",
    "updates": "A definition that changes by chance.", "rules": "Expressions drawn by type, some of them garbled.",
    "evaluated": "Expressions drawn by type, evaluated."}


def numbers_in(path):
    """Of the cases that are in a file already: their names end with them."""
    if not os.path.exists(path):
        return set()
    with open(path) as file:
        return {int(number) for number in re.findall(r'^- \{"name": "[^"]* (\d+)"', file.read(), re.MULTILINE)}


def needed(one, cases):
    """The steps of a set-up without those that are for other paths than the cases'."""
    paths = [case.request.split(" ", 1)[1] for case in cases]
    for step in one.setup:
        if any(path.startswith(step.get("for", "")) for path in paths):
            yield {key: value for key, value in step.items() if key != "for"}


def described(one, numbers):
    """A description in YAML, of which JSON is a part: a line a step or case."""
    cases = [one.cases[number] for number in sorted(numbers)]
    lines = [f"about: {ABOUT[one.name]}"]
    setup = list(needed(one, cases))
    lines += ["setup:"] * bool(setup) + [f"- {json.dumps(step)}" for step in setup]
    lines += ["cases:"] + [f"- {json.dumps(_entry(case))}" for case in cases]
    freed = [request.split(" ", 1)[1] for request in one.cleanup if request.startswith("PATCH ")]
    for path in freed:
        # Without a finalizer that a case may have given it, it goes with its kind.
        entry = {"name": f"freed {path.rsplit('/', 1)[1]}", "request": f"PATCH {path}", "headers": {"content-type": session.MERGE},
                 "raw": json.dumps({"metadata": {"finalizers": None}})}
        lines.append(f"- {json.dumps(entry)}")
    deleted = [request for request in one.cleanup if request.startswith("DELETE ")]
    lines += [f"cleanup: {json.dumps(deleted)}"] * bool(deleted)
    return "".join(line + "\n" for line in lines)


def _entry(case):
    entry = {"name": case.name, "request": case.request, "headers": case.headers, "as": case.user, "raw": case.body}
    return {key: value for key, value in entry.items() if value not in (None, {})}
