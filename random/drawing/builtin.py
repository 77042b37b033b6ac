"""Objects of the built-in kinds, right but for one to four fields, through every verb that writes (`fields`).

Each is asked as a dry run, so that the order of requests does not matter.
"""
import copy

from drawing import fields, right, trees
from drawing.dice import Dice
from session import APPLY, JSON_PATCH, MERGE, STRATEGIC, Cases, Session

IN_ONE_ROUND = 250
OTHER_NAMESPACES = ["psa-r", "psa-b", "psa-v", "psa-w", "lim"]
INTO_OTHERS = ("Pod", "Deployment", "Job", "PersistentVolumeClaim", "CronJob")
# Kinds with many rules are asked more often than others, which count 2.
WEIGHTS = {
    "Pod": 14, "Service": 8, "Job": 6, "PersistentVolume": 5, "ResourceClaim": 5, "ResourceSlice": 5, "ValidatingAdmissionPolicy": 5, "Deployment": 4,
    "StatefulSet": 4, "CronJob": 4, "PersistentVolumeClaim": 4, "Ingress": 4, "NetworkPolicy": 4, "HorizontalPodAutoscaler": 4, "Node": 4,
    "MutatingAdmissionPolicy": 4, "DaemonSet": 3, "DeviceClass": 3, "FlowSchema": 3, "PriorityLevelConfiguration": 3, "ClusterRole": 3, "EndpointSlice": 3}
# Of what cannot be there before, since it is an answer alone, or has a state that a signer makes.
NEVER_THERE = ("SelfSubjectReview", "TokenReview", "LocalSubjectAccessReview", "SelfSubjectAccessReview", "SelfSubjectRulesReview", "SubjectAccessReview",
               "CertificateSigningRequest", "ClusterTrustBundle", "PodCertificateRequest")
# Their names say what they are.
NAMED_BY_CONTENT = ("IPAddress", "APIService")
OPTIONS = ["", "", "", "&fieldValidation=Strict", "&fieldManager=m", "&fieldValidation=Warn"]
DIRECTIVES = ["$patch", "$retainKeys", "$setElementOrder/containers", "$deleteFromPrimitiveList/finalizers", "$setElementOrder/ports"]
DIRECTED = ["delete", "replace", "merge", "x", [{"name": "c"}], ["a"], [{"port": 80}], [], None, 1]


class BuiltIn:
    """The generator, for the kinds that a server tells."""

    def __init__(self, schemas):
        self._schemas = schemas
        self._right = right.objects()
        self._values = fields.Values(schemas, right.claim())
        self._kinds = [kind for kind in schemas.kinds if (kind.api_version, kind.kind) in self._right]
        self._weights = {number: WEIGHTS.get(kind.kind, 2) for number, kind in enumerate(self._kinds)}

    def round(self, seed, round):
        cases = Cases()
        for number in range(IN_ONE_ROUND):
            dice = Dice(seed, "fields", round, number)
            self._draw(dice, self._kinds[dice.share(self._weights)], cases)
        return Session("fields", round, self._setup(), cases, independent=True)

    def _setup(self):
        there = [right.there(kind, self._right[kind.api_version, kind.kind]) for kind in self._kinds if kind.kind not in NEVER_THERE]
        return [*right.among(), *there]

    def _draw(self, dice, kind, cases):
        base = self._right[kind.api_version, kind.kind]
        namespace = dice.of(OTHER_NAMESPACES) if kind.kind in INTO_OTHERS and dice.chance(.3) else right.NAMESPACE
        tree = self._whole(dice, kind) if dice.chance(.06) and kind.kind != "Event" else copy.deepcopy(base)
        for _ in range(dice.pick(1, 1, 1, 2, 2, 3, 4)):
            self._change(dice, kind, tree)
        there = namespace == right.NAMESPACE and kind.kind not in NEVER_THERE
        path = right.collection(kind, namespace)
        options = "?dryRun=All" + dice.of(OPTIONS)
        how = dice.share({"create": 50, "put": 17, "put status": 5, "merge": 8, "strategic": 10, "json patch": 4, "apply": 6}) if there else "create"
        what, name = f"{kind.kind} {how}", base["metadata"]["name"]
        if how == "create":
            metadata = tree.get("metadata")
            if there and isinstance(metadata, dict) and metadata.get("name") == name and kind.kind not in NAMED_BY_CONTENT:
                metadata["name"] = name + "2"
            cases.ask(what, f"POST {path}{options}", tree)
            return
        one = f"{path}/{name}"
        different = {field: value for field, value in tree.items() if base.get(field) != value}
        if how == "put status" and kind.has_status and "status" in self._schemas.properties(self._schemas.root(kind)):
            schema = self._schemas.properties(self._schemas.root(kind))["status"]
            status = self._values.value(dice, schema, "status", 1, dice.pick(.3, .6))
            cases.ask(what, f"PUT {one}/status{options}", {**base, "status": status})
        elif how in ("put", "put status"):
            cases.ask(what, f"PUT {one}{options}", tree)
        elif how == "merge":
            cases.ask(what, f"PATCH {one}{options}", different, MERGE)
        elif how == "strategic":
            if dice.chance(.5):
                objects = [path for path in trees.paths(different) if isinstance(trees.at(different, path), dict)]
                trees.at(different, dice.of(objects))[dice.of(DIRECTIVES)] = copy.deepcopy(dice.of(DIRECTED))
            cases.ask(what, f"PATCH {one}{options}", different, STRATEGIC)
        elif how == "json patch":
            cases.ask(what, f"PATCH {one}{options}", self._json_patch(dice, kind, base), JSON_PATCH)
        else:
            manager = "" if "fieldManager" in options else "&fieldManager=app"
            cases.ask(what, f"PATCH {path}/{dice.pick(name, name, name, 'new')}{options}{manager}{dice.pick('', '&force=true')}", tree, APPLY)

    def _whole(self, dice, kind):
        """Drawn by the schema alone."""
        tree = self._values.object(dice, kind.definition, 0, dice.pick(.15, .3))
        metadata = tree.get("metadata") if isinstance(tree.get("metadata"), dict) else {}
        return {**tree, "apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": "x", **metadata}}

    def _change(self, dice, kind, tree):
        """Makes one field another: mostly, gives an object one more."""
        places = [path for path in trees.paths(tree) if path and path[0] not in ("apiVersion", "kind")]
        places = [path for path in places if path[0] != "metadata" or dice.chance(.3)]
        if not places:
            return
        how = dice.share({"more": 62, "value": 16, "anything": 8, "gone": 7, "twice": 3, "unknown": 4})
        place = dice.of(places)
        root = self._schemas.root(kind)
        objects = [path for path in [(), *places] if isinstance(trees.at(tree, path), dict)]
        if how == "more":
            self._add(dice, root, tree, objects)
        elif how == "value":
            schema, field = self._schemas.at(root, place)
            named = field if isinstance(place[-1], str) or "$ref" not in schema else ""
            trees.at(tree, place[:-1])[place[-1]] = self._values.value(dice, schema, named, len(place), .3)
        elif how == "anything":
            trees.at(tree, place[:-1])[place[-1]] = fields.pool(dice, "anything")
        elif how == "gone":
            del trees.at(tree, place[:-1])[place[-1]]
        elif how == "twice":
            lists = [trees.at(tree, path) for path in places if isinstance(trees.at(tree, path), list) and trees.at(tree, path)]
            if lists:
                one = dice.of(lists)
                one.append(copy.deepcopy(dice.of(one)))
        else:
            trees.at(tree, dice.of(objects))[dice.pick("unknown", "Name", "x y", "")] = fields.pool(dice, "anything")

    def _add(self, dice, root, tree, objects):
        described = [path for path in objects if self._schemas.properties(self._schemas.at(root, path)[0])]
        if not described:
            return
        place = dice.of(described)
        properties = self._schemas.properties(self._schemas.at(root, place)[0])
        left_out = () if place else ("apiVersion", "kind") if dice.chance(.2) else ("apiVersion", "kind", "status")
        names = [name for name in properties if name not in left_out]
        if names:
            name = dice.of(names)
            trees.at(tree, place)[name] = self._values.value(dice, properties[name], name, len(place), dice.pick(.1, .3, .6))

    def _json_patch(self, dice, kind, base):
        places = [path for path in trees.paths(base) if path]
        operations = []
        for _ in range(dice.pick(1, 1, 2)):
            place = dice.of(places)
            schema, field = self._schemas.at(self._schemas.root(kind), place)
            operation = {"op": dice.pick("add", "add", "remove", "replace", "replace", "test", "copy", "move"), "path": trees.pointer(place)}
            if operation["op"] in ("add", "replace", "test"):
                value = self._values.value(dice, schema, field, len(place), .3)
                operation["value"] = trees.at(base, place) if operation["op"] == "test" and dice.chance(.5) else value
            if operation["op"] in ("copy", "move"):
                operation["from"] = trees.pointer(dice.of(places))
            operations.append(operation)
        return operations
