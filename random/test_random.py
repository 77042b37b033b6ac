"""What needs no server: `python3 -m unittest` in this folder."""
import json
import os
import tempfile
import unittest

import yaml

import ask
import compare
import description
import normal
import protobuf
import session
from drawing import expressions, fields, generators, odd, openapi, trees
from drawing.builtin import BuiltIn
from drawing.dice import Dice
from drawing.patches import Patches, without_directives


class Taking:
    """The original, if it took everything."""

    def accepts(self, definition):
        return True


def document():
    """As much of OpenAPI as two kinds need."""
    def kind(name, path):
        body = {"name": "body", "in": "body", "schema": {"$ref": f"#/definitions/core.v1.{name}"}}
        return {path: {"post": {"x-kubernetes-group-version-kind": {"group": "", "version": "v1", "kind": name}, "parameters": [body]}},
                path + "/{name}/status": {}}

    metadata = {"type": "object", "properties": {"name": {"type": "string"}, "labels": {"type": "object", "additionalProperties": {"type": "string"}}}}
    claim = {"type": "object", "properties": {"metadata": {"$ref": "#/definitions/meta.v1.ObjectMeta"}, "spec": {"$ref": "#/definitions/core.v1.Spec"},
                                              "status": {"type": "object", "properties": {"phase": {"type": "string"}}}}}
    spec = {"type": "object", "required": ["volumeName"], "properties": {
        "volumeName": {"type": "string"}, "resources": {"type": "object", "additionalProperties": {"$ref": "#/definitions/api.resource.Quantity"}},
        "volumeMode": {"type": "string", "description": 'x\n\nPossible enum values:\n - `"Block"` is\n - `"Filesystem"` is'}}}
    namespaced = "/api/v1/namespaces/{namespace}"
    paths = kind("PersistentVolumeClaim", f"{namespaced}/persistentvolumeclaims") | kind("ConfigMap", f"{namespaced}/configmaps")
    return {"paths": paths, "definitions": {"core.v1.PersistentVolumeClaim": claim, "core.v1.Spec": spec, "meta.v1.ObjectMeta": metadata,
                                            "core.v1.ConfigMap": claim, "api.resource.Quantity": {"type": "string"}}}


def refusal(*causes):
    told = [{"field": field, "message": message, "reason": "FieldValueInvalid"} for field, message in causes]
    return {"kind": "Status", "message": "; ".join(message for _, message in causes), "details": {"causes": told}}


def answered(status, body):
    return {"status": status, "body": body, "type": "application/json", "warnings": [], "headers": []}


class Drawing(unittest.TestCase):
    def test_dice_fall_the_same_everywhere(self):
        dice = Dice(7, "objects", 0)
        self.assertEqual([dice.below(100) for _ in range(6)], DRAWN_BY_7)
        self.assertEqual(sorted(Dice(1).some("abc", 5)), ["a", "b", "c"])
        self.assertEqual(Dice(1).share({"never": 0, "always": 1}), "always")

    def test_a_seed_draws_the_same_requests(self):
        for name, generator in (generators.CUSTOM | generators.CEL).items():
            with self.subTest(name):
                first, again, other = (generator(Dice(seed, name, 0), 0, Taking()) for seed in (1, 1, 2))
                self.assertEqual(first, again)
                self.assertNotEqual(first.cases, other.cases)
                self.assertEqual(first.name, name)
                self.assertEqual(len({case.name for case in first.cases}), len(first.cases))

    def test_built_in_kinds_are_drawn_by_the_schema_alone(self):
        drawn = BuiltIn(openapi.Schemas(document())).round(3, 0)
        self.assertEqual(drawn, BuiltIn(openapi.Schemas(document())).round(3, 0))
        self.assertTrue(all("dryRun=All" in case.request for case in drawn.cases))
        self.assertEqual({case.name.split(" ")[0] for case in drawn.cases}, {"PersistentVolumeClaim", "ConfigMap"})
        self.assertTrue(any("/status?" in case.request for case in drawn.cases))
        self.assertGreater(len({case.body for case in drawn.cases}), len(drawn.cases) // 2)
        patched = Patches(openapi.Schemas(document())).round(3, 0)
        self.assertEqual(patched, Patches(openapi.Schemas(document())).round(3, 0))
        self.assertEqual({case.request.split("?")[0].rsplit("/", 1)[1] for case in patched.cases}, {"rich", "fresh"})
        self.assertEqual(without_directives({"a": [{"$patch": "delete"}, {"b": 1, "$retainKeys": []}], "$setElementOrder/a": []}), {"a": [{"b": 1}]})

    def test_a_share_of_the_requests_falls_to_each_area(self):
        drawn = generators.sessions(1, 300, ["custom", "rules"], Taking())
        rules = sum(len(one.cases) for one in drawn if one.name == "rules")
        self.assertEqual(rules, 200, "whole rounds of a hundred, half of three hundred at least")
        self.assertGreaterEqual(sum(len(one.cases) for one in drawn), 300)
        with self.assertRaises(SystemExit):
            generators.chosen(["no such area"])

    def test_what_fields_are_given_can_be_drawn(self):
        table = fields._table()
        for name, what in [*table["pools"].items(), *table["fields"].items()]:
            for number in range(20):
                value = fields.drawn(Dice(name, number), what)
                self.assertNotRegex(json.dumps(value), r'"\$\w+"|\{\d', f"{name} names no pool and has nothing left to spell")
        self.assertEqual(fields._spelled(["a.b/c{3}"]), ["a.b/ccc"])

    def test_the_grammar_is_whole(self):
        sections = expressions.grammar()
        for section, templates in sections.items():
            for template in templates:
                for hole in expressions.HOLE.finditer(template):
                    for type_ in hole.group(1).split("|"):
                        self.assertIn(f"{type_} leaf", sections, template)
        for number in range(500):
            drawn = expressions.expression(Dice(number), "bool", 3)
            self.assertNotRegex(drawn, r"[$@]", "nothing is left to fill")

    def test_trees_are_changed_as_copies(self):
        tree = {"spec": {"a": [1, {"b": "c"}]}}
        before = json.dumps(tree)
        changed = [json.dumps(trees.mutated(Dice(number), tree)) for number in range(50)]
        self.assertEqual(json.dumps(tree), before)
        self.assertGreater(len(set(changed)), 30)
        self.assertEqual(trees.pointer(("a/b", 0, "c~d")), "/a~1b/0/c~0d")
        self.assertEqual(yaml.safe_load(odd.block_style({"a": {"b": [1, None], "c": {}}})), {"a": {"b": [1, None], "c": {}}})


class Comparing(unittest.TestCase):
    def test_what_is_another_in_each_run_is_left_out(self):
        told = normal.tree({"uid": "x", "metadata": {"resourceVersion": "12", "creationTimestamp": "2026-11-30T06:00:00Z"}, "cells": ["5m3s", "five"],
                            "message": 'resourceVersion: "12" of 123e4567-e89b-12d3-a456-426614174000'})
        self.assertEqual(told, {"uid": "*", "metadata": {"resourceVersion": "*", "creationTimestamp": "*"}, "cells": ["*", "five"], "message": "* of *"})
        self.assertEqual(normal.tree("2020-01-01T00:00:00Z"), "2020-01-01T00:00:00Z", "a time that a request has is not the run's")
        self.assertEqual(normal.text("no: errors:\n  .b: x\n  .a: y"), "no: errors:\n  .a: y\n  .b: x")

    def test_owners_of_one_second_come_by_name(self):
        one, other = ({"manager": name, "operation": "Update", "time": f"2026-11-30T06:00:0{second}Z"} for name, second in (("b", 1), ("a", 2)))
        self.assertEqual([entry["manager"] for entry in normal.owners([one, other])], ["a", "b"])
        self.assertEqual(normal.owners([other, one])[-1], "not in upstream's order")

    def test_errors_of_one_map_have_no_order(self):
        a, b, c = ("metadata.labels", "a"), ("metadata.labels", "b"), ("spec.x[0]", "c")
        order = [normal.answer(answered(422, refusal(*causes))) for causes in ((a, b, c), (b, a, c), (c, a, b))]
        self.assertEqual(order[0], order[1])
        self.assertEqual(compare.verdict(order[0], order[0], order[2]), "order")
        unordered = [normal.answer(answered(422, refusal(*causes)), unordered=True) for causes in ((a, b, c), (c, b, a))]
        self.assertEqual(compare.verdict(unordered[0], unordered[0], unordered[1]), "same")

    def test_verdicts(self):
        one, other = answered(200, {"a": 1}), answered(200, {"a": 2})
        cases = {"same": (one, one, one), "differs": (one, one, other), "unsteady": (one, other, one), "unanswered": ({"error": "x"}, one, one)}
        self.assertEqual({name: compare.verdict(*answers) for name, answers in cases.items()}, {name: name for name in cases})
        self.assertEqual(compare.verdict(one, one, {"error": "refused"}), "differs")

    def test_differences_are_told_where_they_are(self):
        self.assertEqual(compare.differences(answered(200, {"a": {"b": [1, 2]}}), answered(200, {"a": {"b": [1, 3]}, "c": 1})),
                         ["~ /a/b/1: 2 => 3", "~ /c: (nothing) => 1"])
        self.assertEqual(compare.differences(answered(200, "a: 1\nb: 2\n"), answered(200, "a: 1\nb: 3\n")), ["- b: 2", "+ b: 3"])
        twice = compare.differences(answered(422, refusal(("a", "x"), ("a", "x"))), answered(422, refusal(("a", "x"))))
        self.assertEqual(twice, ["- a: x (FieldValueInvalid)"])
        told = compare.differences(answered(422, refusal(("spec.a", "wrong"))), answered(201, {"kind": "Pod"}))
        self.assertEqual(told, ["status 422 => 201", "- wrong", '+ {"kind": "Pod"}'])

    def test_what_is_alike_is_one_class(self):
        def pair(number, value):
            case = session.Case(f"Pod create {number}", "POST /x", {})
            original = answered(422, refusal((f"spec.containers[{number}].image", f'Invalid value: "{value}": must be short')))
            return compare.Pair(f"fields.0.{number}", case, "fields", original, answered(422, refusal(("spec", "x"))), "differs")

        pairs = [pair(0, "a"), pair(1, "b")]
        self.assertEqual(compare.class_of(pairs[0]), compare.class_of(pairs[1]))
        report = list(compare.report(pairs, 7))
        self.assertEqual(report[0].split(), ["2", "fields", "Pod", "7:fields.0.0", "7:fields.0.1"])
        self.assertIn("0.00 % alike", report[-1])

    def test_messages_without_their_schema(self):
        # {1: "v1", 2: {1: 5}}, and a field that is empty.
        self.assertEqual(protobuf.tree(b"\x0a\x02v1\x12\x02\x08\x05\x1a\x00"), [[1, "v1"], [2, [[1, 5]]]])


class Asking(unittest.TestCase):
    class Server:
        """Refuses what is called `no`, and has heard everything."""

        def __init__(self):
            self.heard = []

        def json(self, verb, path, tree=None, kind=None):
            self.heard.append(f"{verb} {path}")
            return (404, {}) if verb == "GET" else (422, {}) if path == "/no" else (200, {})

        def answer(self, case):
            self.heard.append(case.request)
            return answered(200, {})

    def test_sessions_are_set_up_asked_and_cleaned_up(self):
        server, cases = self.Server(), session.Cases()
        cases.ask("one", "GET /1")
        cases.ask("two", "GET /2")
        one = session.Session("x", 0, [{"send": "POST /a", "body": {}}], cases, ["PATCH /a/one", "DELETE /a"])
        self.assertEqual(len(ask.asked(server, [one])[0]), 2)
        self.assertEqual(server.heard, ["POST /a", "GET /1", "GET /2", "PATCH /a/one", "DELETE /a", "GET /a"])

    def test_what_cannot_be_set_up_is_told_and_cleaned_up(self):
        cases = session.Cases()
        cases.ask("one", "GET /1")
        for independent in (False, True):
            server = self.Server()
            told = ask.asked(server, [session.Session("x", 0, [{"send": "POST /no", "body": {}}], cases, ["DELETE /a"], independent)])
            self.assertIn("422", told[0][0]["unprepared"])
            self.assertEqual(server.heard, ["POST /no", "DELETE /a", "GET /a"])


class Keeping(unittest.TestCase):
    def drawn(self, independent):
        cases = session.Cases()
        for number in range(4):
            cases.ask("one", f"POST /things?dryRun=All&number={number}", {"a": number})
        setup = [{"send": "POST /spaces", "body": {}}, {"send": "POST /things", "body": {}, "for": "/things"},
                 {"send": "POST /others", "body": {}, "for": "/others"}]
        return session.Session("whole", 0, setup, cases, ["PATCH /things/one", "DELETE /things"], independent)

    def test_a_session_comes_back_as_it_was_written(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "sessions.jsonl")
            session.write(path, [self.drawn(True)])
            self.assertEqual(session.read(path), [self.drawn(True)])

    def test_a_description_has_what_its_cases_need(self):
        told = yaml.safe_load(description.described(self.drawn(True), {1, 3}))
        self.assertEqual(told["setup"], [{"send": "POST /spaces", "body": {}}, {"send": "POST /things", "body": {}}])
        self.assertEqual([case["name"] for case in told["cases"]], ["one 1", "one 3", "freed one"])
        self.assertEqual(told["cases"][0]["raw"], '{"a": 1}')
        self.assertEqual(told["cleanup"], ["DELETE /things"])

    def test_more_cases_join_those_that_are_there(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "whole.yaml")
            self.assertEqual(description.numbers_in(path), set())
            with open(path, "w") as file:
                file.write(description.described(self.drawn(True), {1, 3}))
            self.assertEqual(description.numbers_in(path), {1, 3})


# What seven drew when this was written.
DRAWN_BY_7 = [69, 5, 81, 44, 2, 64]

if __name__ == "__main__":
    unittest.main()
