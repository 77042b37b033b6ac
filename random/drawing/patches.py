"""Patches of parts of rich objects of built-in kinds, with the directives of strategic merge patches (`patches`)."""
import copy
import json
import os

from drawing import fields, right, trees
from drawing.dice import Dice
from session import APPLY, JSON_PATCH, MERGE, STRATEGIC, Cases, Session

IN_ONE_ROUND = 250
WITH_STATUS = ("Node", "Deployment", "Pod", "Namespace")
TOPS = ("apiVersion", "kind", "type", "status")
ODD = [None, "x", 1, 0, True, False, 1.5, 1.0, [], {}, [None], ["a"], [{}], {"a": None}, {"a": "b"}, "", "1", 2147483648, -1, 1e20, {"$patch": "delete"},
       {"$patch": "replace"}, [{"$patch": "replace"}], [["a"]]]
VALIDATION = ["", "", "&fieldValidation=Strict", "&fieldValidation=Warn", "&fieldValidation=Ignore"]


class Patches:
    """The generator, for the kinds that a server tells."""

    def __init__(self, schemas):
        self._schemas = schemas
        self._values = fields.Values(schemas, right.claim())
        kinds = {(kind.api_version, kind.kind): kind for kind in schemas.kinds}
        rich = right.documents(os.path.join(right.HERE, "rich.yaml"))[0]["objects"]
        # Copies: what has one anchor is one object otherwise.
        self._rich = [(kinds[one["apiVersion"], one["kind"]], json.loads(json.dumps(one))) for one in rich if (one["apiVersion"], one["kind"]) in kinds]

    def round(self, seed, round):
        cases = Cases()
        for number in range(IN_ONE_ROUND):
            dice = Dice(seed, "patches", round, number)
            self._draw(dice, *dice.of(self._rich), cases)
        there = [right.there(kind, tree, "?fieldManager=made") for kind, tree in self._rich]
        return Session("patches", round, [*right.among(), *there], cases, independent=True)

    def _draw(self, dice, kind, tree, cases):
        sub = "/status" if kind.kind in WITH_STATUS and dice.chance(.1) else ""
        path = right.collection(kind)
        options = f"{sub}?dryRun=All{dice.of(VALIDATION)}"
        manager = dice.pick("", "", "&fieldManager=m")
        how = dice.share({"strategic": 40, "merge": 20, "json patch": 20, "apply": 20})
        what, one = f"{kind.kind} {how}", f"{path}/rich{options}{manager}"
        if how == "json patch":
            cases.ask(what, f"PATCH {one}", self._operations(dice, kind, tree), JSON_PATCH)
            return
        patch = self._map(dice, self._schemas.root(kind), tree, ())
        if how == "strategic":
            cases.ask(what, f"PATCH {one}", patch, STRATEGIC)
        elif how == "merge":
            cases.ask(what, f"PATCH {one}", without_directives(patch) if dice.chance(.9) else patch, MERGE)
        else:
            applied = {"apiVersion": kind.api_version, "kind": kind.kind, **without_directives(patch)}
            metadata = applied.get("metadata")
            applied["metadata"] = {**(metadata if isinstance(metadata, dict) else {}), "name": "rich"}
            manager = manager or f"&fieldManager={dice.pick('app', 'made')}"
            cases.ask(what, f"PATCH {path}/{dice.pick('rich', 'rich', 'rich', 'fresh')}{options}{manager}{dice.pick('', '&force=true')}", applied, APPLY)

    def _part(self, dice, root, tree, path):
        """What a patch says of a place."""
        current = trees.at(tree, path)
        if isinstance(current, dict):
            return self._map(dice, root, tree, path)
        return self._list(dice, root, tree, path) if isinstance(current, list) else self._value(dice, root, current, path)

    def _value(self, dice, root, current, path):
        schema, field = self._schemas.at(root, path)
        how = dice.share({"drawn": 45, "odd": 15, "current": 30, "null": 10})
        if how == "drawn":
            return self._values.value(dice, schema, field, len(path), dice.pick(.1, .3))
        return copy.deepcopy({"odd": dice.of(ODD), "current": current, "null": None}[how])

    def _map(self, dice, root, tree, path):
        current, patch = trees.at(tree, path), {}
        keys = [key for key in current if path or key not in TOPS]
        for key in dice.some(keys, dice.pick(1, 1, 1, 2, 2, 3)):
            value, place = current[key], (*path, key)
            deeper = isinstance(value, (dict, list)) and value and dice.chance(.85)
            patch[key] = self._part(dice, root, tree, place) if deeper else self._value(dice, root, value, place)
            if isinstance(value, list) and value:
                self._direct_list(dice, root, patch, key, value, place)
        properties = self._schemas.properties(self._schemas.at(root, path)[0])
        if path and properties and dice.chance(.12):
            key = dice.of(list(properties))
            patch[key] = self._value(dice, root, None, (*path, key))
        if path and dice.chance(.06):
            patch["$retainKeys"] = dice.pick(list(patch), list(patch) + list(current)[:1], [], ["x"])
        if path and dice.chance(.04):
            patch["$patch"] = dice.pick("replace", "replace", "delete", "merge", "x")
        if dice.chance(.03):
            patch[dice.pick("unknown", "Name", "a b")] = copy.deepcopy(dice.of(ODD))
        return patch

    def _direct_list(self, dice, root, patch, key, current, place):
        """Tells the order of a list, or what goes from it."""
        def named(elements):
            return [{merge_key: element.get(merge_key)} if isinstance(element, dict) else element for element in elements]

        merge_key = self._merge_key(root, place)
        if dice.chance(.3):
            order = dice.some(named(current), dice.up_to(len(current)) if dice.chance(.4) else len(current))
            said = patch.get(key)
            if isinstance(said, list) and dice.chance(.6):
                order = named(element for element in said if not (isinstance(element, dict) and "$patch" in element)) + order
            patch[f"$setElementOrder/{key}"] = order if dice.chance(.93) else copy.deepcopy(dice.of(ODD))
            if dice.chance(.15):
                patch.pop(key, None)
        if not isinstance(current[0], dict) and dice.chance(.3):
            patch[f"$deleteFromPrimitiveList/{key}"] = copy.deepcopy(dice.pick([current[0]], current, ["zz"], [], None, dice.of(ODD)))
            if dice.chance(.5):
                patch.pop(key, None)

    def _merge_key(self, root, path):
        return self._schemas.at(root, path)[0].get("x-kubernetes-patch-merge-key", "name")

    def _list(self, dice, root, tree, path):
        current = trees.at(tree, path)
        elements = [self._element(dice, root, tree, path, current) for _ in range(dice.pick(1, 1, 2, 2, 3))]
        return elements + [copy.deepcopy(elements[0])] if dice.chance(.08) else elements

    def _element(self, dice, root, tree, path, current):
        if not isinstance(current[0], dict):
            return copy.deepcopy(dice.pick(current[0], "new", "a", current[-1], dice.of(ODD)))
        merge_key = self._merge_key(root, path)
        number = dice.below(len(current))
        how = dice.share({"changed": 60, "deleted": 15, "replaced": 5, "new": 15, "odd": 5})
        if how == "deleted":
            return {merge_key: current[number].get(merge_key), "$patch": "delete"}
        if how == "new":
            return self._values.value(dice, self._schemas.at(root, (*path, 0))[0], path[-1], len(path), .3)
        if how in ("replaced", "odd"):
            return {"$patch": "replace"} if how == "replaced" else copy.deepcopy(dice.of(ODD))
        element = self._map(dice, root, tree, (*path, number))
        if merge_key in current[number] and dice.chance(.95):
            element[merge_key] = current[number][merge_key]
        return element

    def _operations(self, dice, kind, tree):
        places = [path for path in trees.paths(tree) if path]
        root, operations = self._schemas.root(kind), []
        for _ in range(dice.pick(1, 1, 2, 3, 4)):
            place = dice.of(places)
            said = place
            if isinstance(place[-1], int) and dice.chance(.3):
                said = (*place[:-1], dice.pick("-", -1, 0, 1, 9))
            elif dice.chance(.1):
                said = (*place, dice.pick("new", "x", 0))
            operation = {"op": dice.pick("add", "add", "remove", "replace", "replace", "test", "copy", "move"), "path": trees.pointer(said)}
            if operation["op"] in ("add", "replace", "test"):
                current = trees.at(tree, place)
                operation["value"] = copy.deepcopy(dice.pick(self._value(dice, root, current, place), current, dice.of(ODD)))
            if operation["op"] in ("copy", "move"):
                operation["from"] = trees.pointer(dice.of(places))
            operations.append(operation)
        return operations


def without_directives(patch):
    if isinstance(patch, dict):
        return {key: without_directives(value) for key, value in patch.items() if not key.startswith("$")}
    if isinstance(patch, list):
        return [without_directives(value) for value in patch if not (isinstance(value, dict) and "$patch" in value)]
    return patch
