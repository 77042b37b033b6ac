"""Values of the fields of built-in kinds, right and odd: by the field's name (`fields.yaml`), else by its type."""
import copy
import functools
import os
import re

from drawing import openapi, right

REPEATED = re.compile(r"(.)\{(\d+)\}")
# Definitions whose values are texts or numbers, by the pool that they are drawn from; None: see `_typed`.
TYPED = {"Quantity": "quantity", "Time": "time", "MicroTime": "time", "IntOrString": None, "RawExtension": None, "FieldsV1": None, "JSON": None}
INT_OR_STRING = [1, 80, "50%", "a", "http", 0, -1, "", 65536, "101%", "1"]
EXTENSIONS = [{}, {"a": 1}, None, "x", {"apiVersion": "v1", "kind": "x"}]
# Objects that are drawn whole, since a field by itself is hardly ever right.
WHOLE = ("capabilities", "os", "windowsOptions", "seccompProfile", "appArmorProfile", "seLinuxOptions")
# Names that fields of every type have: theirs in `fields.yaml` are texts.
TEXTS_ALONE = ("name", "namespace", "path", "type")
# Definitions of which one field should be there, and which.
UNIONS = ("Volume", "PersistentVolumeSpec", "VolumeProjection", "EnvVarSource", "LifecycleHandler", "Probe", "DeviceAttribute", "IngressBackend",
          "MetricSpec", "VolumeNodeAffinity", "EnvFromSource", "ContainerState", "DeviceRequest")


@functools.cache
def _table():
    return right.documents(os.path.join(right.HERE, "fields.yaml"))[0]


def _is_pool(option):
    return isinstance(option, str) and option.startswith("$") and option[1:] in _table()["pools"]


def pool(dice, name):
    return drawn(dice, _table()["pools"][name])


def drawn(dice, what):
    """What an entry of `fields.yaml` stands for."""
    if _is_pool(what):
        return pool(dice, what[1:])
    if isinstance(what, dict):
        count = dice.up_to(what["most"])
        if "keys" in what:
            return {drawn(dice, what["keys"]): drawn(dice, what["values"]) for _ in range(count)}
        return [drawn(dice, what["several"]) for _ in range(count)]
    option = dice.of(what)
    return pool(dice, option[1:]) if _is_pool(option) else _spelled(option)


def _spelled(option):
    """A copy, in whose texts what stands for many letters is them."""
    if isinstance(option, str):
        return REPEATED.sub(lambda found: found.group(1) * int(found.group(2)), option)
    if isinstance(option, list):
        return [_spelled(one) for one in option]
    if isinstance(option, dict):
        return {key: _spelled(one) for key, one in option.items()}
    return option


class Values:
    """Draws by the schemas of a server. CLAIM: a PersistentVolumeClaim that is right."""

    def __init__(self, schemas, claim):
        self._schemas, self._claim = schemas, claim

    def value(self, dice, schema, field, depth, density):
        """Of a field. DENSITY: how many of the fields that may be left out are there."""
        named = _table()["fields"].get(field)
        if "$ref" in schema:
            name = openapi.name_of(schema)
            short = name.split(".")[-1]
            if short in TYPED:
                return _typed(dice, short)
            if short == "PersistentVolumeClaim":
                return self._template(dice)
            if named and (field in WHOLE or not self._schemas.properties(schema)):
                return drawn(dice, named)
            return self.object(dice, name, depth, density)
        type_ = schema.get("type")
        told = openapi.enum(schema)
        if told and dice.chance(.85):
            return dice.of(told)
        if named and not (field in TEXTS_ALONE and type_ in ("object", "array")) and dice.chance(.97):
            value = drawn(dice, named)
            fits = isinstance(value, list) if type_ == "array" else type_ not in ("integer", "boolean") or not isinstance(value, str) or field == "port"
            if fits:
                return value
        return self._by_type(dice, schema, field, depth, density)

    def _by_type(self, dice, schema, field, depth, density):
        type_ = schema.get("type")
        if type_ == "string":
            by_format = {"byte": ["YQ==", "", "x", "!!"], "int-or-string": INT_OR_STRING}.get(schema.get("format"))
            if schema.get("format") == "date-time":
                return pool(dice, "time")
            return dice.of(by_format) if by_format else pool(dice, dice.pick("name", "name", "text"))
        if type_ == "integer":
            return pool(dice, "integer")
        if type_ in ("number", "boolean"):
            return dice.of([1, 1.5, 0] if type_ == "number" else [True, False])
        if type_ == "array":
            items = schema["items"]
            name = "" if "$ref" in items else field
            elements = [self.value(dice, items, name, depth + 1, density) for _ in range(dice.pick(0, 1, 1, 1, 2, 2, 3))]
            if elements and dice.chance(.1):
                elements.append(copy.deepcopy(elements[0]))
            return elements
        if type_ == "object" and schema.get("additionalProperties"):
            return self._map(dice, schema["additionalProperties"], depth, density)
        return dice.pick({}, {"a": 1}) if type_ == "object" else dice.pick({}, None, "x")

    def _map(self, dice, values, depth, density):
        if values.get("$ref", "").endswith("Quantity"):
            return {pool(dice, "resource"): pool(dice, "quantity") for _ in range(dice.up_to(3))}
        texts = values.get("type") == "string"
        return {pool(dice, dice.pick("labelKey", "name")): pool(dice, "labelValue") if texts else self.value(dice, values, "", depth + 1, density)
                for _ in range(dice.up_to(2))}

    def _template(self, dice):
        claim = {key: copy.deepcopy(value) for key, value in self._claim.items() if key not in ("apiVersion", "kind")}
        claim["metadata"]["name"] = dice.pick("d", "e", "", pool(dice, "text"))
        return claim

    def object(self, dice, name, depth, density):
        """Of a definition."""
        schema = self._schemas.resolved({"$ref": "#/definitions/" + name})
        properties = schema.get("properties")
        if not properties:
            return {} if schema.get("type") == "object" else self.value(dice, schema, "", depth, density)
        members = [field for field in properties if "$ref" in properties[field]] if name.split(".")[-1] in UNIONS else []
        chosen = dice.some(members, dice.pick(1, 1, 1, 1, 1, 0, 2) if len(members) > 1 else 1)
        tree = {field: self.value(dice, properties[field], field, depth + 1, density) for field in chosen}
        for field, child in properties.items():
            if field in members or field == "status" and depth < 2:
                continue
            probability = .97 if field in schema.get("required", ()) else density / (1 + depth * .15)
            if dice.chance(probability):
                tree[field] = self.value(dice, child, field, depth + 1, density)
        return tree


def _typed(dice, short):
    if TYPED[short]:
        return pool(dice, TYPED[short])
    return copy.deepcopy(dice.of({"IntOrString": INT_OR_STRING, "RawExtension": EXTENSIONS}.get(short, [{}])))
