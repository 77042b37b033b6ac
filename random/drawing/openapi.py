"""The built-in kinds as a server's OpenAPI (version 2) tells them: which may be made where, and the schemas of their fields."""
import dataclasses
import re

# Of kinds that are asked about elsewhere (`changes.py`), or that are not objects of their own.
LEFT_OUT = ("/customresourcedefinitions", "/proxy", "/watch/", "/exec", "/attach", "/portforward", "/binding", "/eviction", "/token")
ENUM = re.compile(r'^ - `"([^"]*)"`', re.MULTILINE)


@dataclasses.dataclass
class Kind:
    api_version: str
    kind: str
    # Of its collection, with `{namespace}` where it has one.
    path: str
    definition: str
    has_status: bool


class Schemas:
    def __init__(self, document):
        self._definitions = document["definitions"]
        self._parameters = document.get("parameters") or {}
        paths = document["paths"]
        self.kinds = [self._kind(path, paths) for path in sorted(paths) if "post" in paths[path] and self._is_told(path)]

    @staticmethod
    def _is_told(path):
        parts = path.split("/")
        group_version = parts[3] if path.startswith("/apis/") and len(parts) > 3 else ""
        own = not any(part in path for part in LEFT_OUT) or path.endswith(("rolebindings", "policybindings"))
        is_bindings = path.endswith("/bindings")
        return own and not is_bindings and "alpha" not in group_version and "beta" not in group_version

    def _kind(self, path, paths):
        post = paths[path]["post"]
        told = post["x-kubernetes-group-version-kind"]
        parameters = [self._parameters[one["$ref"].split("/")[-1]] if "$ref" in one else one for one in post["parameters"] + paths[path].get("parameters", [])]
        body = next(one for one in parameters if one["in"] == "body")
        api_version = "/".join(part for part in (told["group"], told["version"]) if part)
        return Kind(api_version, told["kind"], path, name_of(body["schema"]), path + "/{name}/status" in paths)

    def root(self, kind):
        return {"$ref": "#/definitions/" + kind.definition}

    def resolved(self, schema):
        while "$ref" in schema:
            schema = self._definitions[name_of(schema)]
        return schema

    def properties(self, schema):
        return self.resolved(schema).get("properties") or {}

    def at(self, schema, path):
        """(the schema of a place, the field that it is or is an element of); no schema where nobody has described it."""
        field = ""
        for key in path:
            schema = self.resolved(schema)
            if isinstance(key, int):
                schema = schema.get("items") or {}
            else:
                field = key
                more = schema.get("additionalProperties")
                schema = (schema.get("properties") or {}).get(key) or (more if isinstance(more, dict) else {})
        return schema, field


def name_of(schema):
    """Of the definition that a schema refers to."""
    return schema["$ref"].split("/")[-1]


def enum(schema):
    """The values that are right: told as such, or in the words of the description alone."""
    return schema.get("enum") or ENUM.findall(schema.get("description") or "")
