"""Answers without what is another in each run, as the differential test has it (`crates/apiserver/tests/differential/drive.rs`):
identities, revisions, times and ages, generated names, and what names the one server or its administrator."""
import itertools
import json
import re

OWN = [(re.compile(pattern), instead) for pattern, instead in (
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "*"),
    (r"20(?:2[5-9]|[3-9]\d)-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z", "*"),
    (r'resourceVersion(?:: |\\?":\\?)"\d+\\?"', "*"),
    (r"revision=\d+", "*"),
    (r"X509SHA256=[0-9a-f]{64}", "*"),
    # Addresses of the two servers.
    (r"(?:localhost|\d+\.\d+\.\d+\.\d+):(?:6443|16443)\b|127\.0\.0\.1:\d+", "*"),
    (r"kubernetes-admin", "admin"),
    # What `generateName` gives: five letters and digits of these.
    (r"(x{40,})[a-z0-9]{5}\b", r"\1?"),
    (r"\b(a-|A)[bcdfghjklmnpqrstvwxz2456789]{5}\b", r"\1?"),
    (r"kube-api-access-[a-z0-9]{5}", "kube-api-access-?"),
    # Of the type that the original makes anew of each definition.
    (r"selfType\d+", "selfType"),
    # A place in a compiled expression, which is the original's own.
    (r"in record \(\d+\)", "in record"))]
AGE = re.compile(r"(?:\d+[smhdy])+")
# Maps whose errors come in any order, each named by its own field.
MAPS = ("labels", "annotations", "matchLabels", "nodeSelector", "selector", "data", "stringData", "hard", "parameters")


# What a merge of owners lists of an object: its fields are gone through in the order of a map of Go's.
ERRORS = "errors:\n"


def text(value):
    for pattern, instead in OWN:
        value = pattern.sub(instead, value)
    head, errors, lines = value.partition(ERRORS)
    return head + errors + "\n".join(sorted(lines.split("\n"))) if errors else value


def tree(value):
    if isinstance(value, dict):
        return {key: _field(key, child) for key, child in value.items()}
    if isinstance(value, list):
        return [tree(child) for child in value]
    return text(value) if isinstance(value, str) else value


def _field(key, value):
    if key in ("uid", "resourceVersion", "authentication.kubernetes.io/credential-id") and isinstance(value, str):
        return "*"
    if key == "continue" and isinstance(value, str) and value:
        return "*"
    if key == "managedFields" and isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        return tree(owners(value))
    if key == "cells" and isinstance(value, list):
        return ["*" if isinstance(cell, str) and AGE.fullmatch(cell) else tree(cell) for cell in value]
    return tree(value)


def owners(entries):
    """Owners are told by operation and second: whether two writes fall into one second decides on their order. Where it is as it must be,
    they are told without regard to time; where it is not they stay, and one more says so."""
    def told(entry, parts):
        return [entry.get(part) if isinstance(entry.get(part), str) else "" for part in parts]

    keys = [told(entry, ("operation", "time", "manager", "apiVersion", "subresource")) for entry in entries]
    if keys == sorted(keys):
        return sorted(entries, key=lambda entry: told(entry, ("manager", "operation", "subresource", "apiVersion")))
    return [*entries, "not in upstream's order"]


def answer(answer, unordered=False):
    """What is compared. Errors of one map come in one order, all of them if the whole is UNORDERED."""
    if "status" not in answer:
        return answer
    body = tree(answer["body"])
    if isinstance(body, dict) and body.get("kind") == "SelfSubjectRulesReview" and isinstance(body.get("status"), dict):
        # The bindings of roles are looked through in the order of a cache.
        body["status"] = {key: sorted(value, key=json.dumps) if isinstance(value, list) else value for key, value in body["status"].items()}
    told = {**answer, "body": body, "warnings": [text(warning) for warning in answer["warnings"]], "headers": [text(header) for header in answer["headers"]]}
    return in_order(told, lambda cause: "" if unordered else _map_of(cause.get("field") or ""))


def in_order(answer, map_of=lambda cause: ""):
    """With the errors that follow each other and are of one map in one order."""
    causes = causes_of(answer["body"])
    runs = [list(run) for _, run in itertools.groupby(enumerate(causes), lambda one: map_of(one[1]) if map_of(one[1]) is not None else one[0])]
    if all(len(run) == 1 for run in runs):
        return answer
    ordered = [cause for run in runs for cause in sorted((cause for _, cause in run), key=json.dumps)]
    # The message has the errors once more, in their order.
    return {**answer, "body": {**answer["body"], "message": "", "details": {**answer["body"]["details"], "causes": ordered}}}


def causes_of(body):
    """The errors of a refusal, one a field."""
    if not isinstance(body, dict) or body.get("kind") != "Status" or not isinstance(body.get("details"), dict):
        return []
    return body["details"].get("causes") or []


def _map_of(field):
    """The map that an error is about, if it is about one of its keys."""
    keyed = re.fullmatch(r"(.*)\[[^\]]*[^\d\]][^\]]*\]", field)
    if keyed:
        return keyed.group(1)
    return field if field.split(".")[-1] in MAPS else None
